import type { Selection } from '../state/route.ts';

/** The type under which items of the palette are dragged: `lan`, `dmz`, or `decky:` and the archetype. */
export const itemType = 'application/x-topostream-item';

/** A place on the canvas, in pixels at zoom 1; in a LAN relative to its upper left corner. */
export interface Place {
  readonly x: number;
  readonly y: number;
  readonly lan: string | null;
}

/** What somebody wants of the graph. The canvas says it and does nothing by itself: editing decides. */
export interface Intents {
  /** Something was dragged to another place. A decky's place is relative to its home LAN. */
  move(target: Selection, to: { readonly x: number; readonly y: number }): void;
  /** A decky's port was dragged onto a LAN, or onto a decky of it: both by name. */
  connect(decky: string, lan: string): void;
  /** A decky was dragged onto a LAN that is not its home: both by name. It goes back to where it was. */
  rehome(decky: string, lan: string): void;
  /** An item of the palette was dropped; `onto` is the name of the decky beneath it. */
  drop(item: string, at: Place, onto: string | null): void;
  /** The context menu was asked for, on the canvas itself without targets; client is in CSS pixels of the window. */
  menu(targets: readonly Selection[], at: Place, client: { readonly x: number; readonly y: number }): void;
  /** Delete was pressed. */
  remove(targets: readonly Selection[]): void;
}
