/** What the graph draws dashed, because it is staged or asked for and not there yet. */
export type Ghost =
  | { readonly kind: 'lan'; readonly name: string; readonly subnet: string | null; readonly is_dmz: boolean;
      readonly x: number | null; readonly y: number | null; readonly phase: GhostPhase }
  | { readonly kind: 'decky'; readonly name: string; readonly lan: string; readonly x: number | null;
      readonly y: number | null; readonly phase: GhostPhase }
  | { readonly kind: 'edge'; readonly decky: string; readonly lan: string; readonly phase: GhostPhase }
  /** Something that is there goes, or changes: named by its own key. */
  | { readonly kind: 'going' | 'changing'; readonly table: 'lans' | 'deckies' | 'edges'; readonly key: string;
      readonly phase: GhostPhase };

/** Staged in this tab, or waiting or being applied on the server. */
export type GhostPhase = 'staged' | 'pending' | 'applying';
