// What waits or is being applied on the server, as ghosts.
import type { Graph, Mutation } from 'topostream';
import type { Ghost, GhostPhase } from './ghost.ts';

type Fields = Record<string, unknown>;
const text = (value: unknown): string | null => typeof value === 'string' ? value : null;
const number = (value: unknown): number | null => typeof value === 'number' && Number.isFinite(value) ? value : null;
const fieldsOf = (value: unknown): Fields => value !== null && typeof value === 'object' ? value as Fields : {};

/** The edits that a mutation makes: itself, or those of a changeset. */
export function editsOf(op: string, payload: unknown): { readonly op: string; readonly payload: Fields }[] {
  if (op !== 'changeset') return [{ op, payload: fieldsOf(payload) }];
  const { ops } = fieldsOf(payload);
  return Array.isArray(ops)
    ? ops.map(fieldsOf).map((edit) => ({ op: String(edit.op), payload: fieldsOf(edit.payload) }))
    : [];
}

/** What the graph draws dashed for mutations in flight. Names that the graph does not have make no ghost. */
export function ghostsOf(graph: Graph, mutations: readonly Mutation[]): Ghost[] {
  if (!mutations.length) return [];
  const lans = new Map(graph.lans.map((lan) => [lan.name, lan]));
  const deckies = new Map(graph.deckies.map((decky) => [decky.name, decky]));
  return mutations.flatMap(({ op, payload, state }) =>
    editsOf(op, payload).flatMap((edit) => ghostOf(edit.op, edit.payload, state)));

  function ghostOf(op: string, p: Fields, phase: GhostPhase): Ghost[] {
    const name = text(p.name) ?? '';
    const lan = text(p.lan) ?? '';
    const decky = text(p.decky) ?? '';
    const [x, y] = [number(p.x), number(p.y)];
    const mark = (kind: 'going' | 'changing', table: keyof Graph, key: string | undefined): Ghost[] =>
      key ? [{ kind, table, key, phase }] : [];
    switch (op) {
      case 'add_lan':
        return name ? [{ kind: 'lan', name, subnet: text(p.subnet), is_dmz: p.is_dmz === true, x, y, phase }] : [];
      case 'add_decky':
        return name ? [{ kind: 'decky', name, lan, x, y, phase }] : [];
      case 'attach_decky':
        return [{ kind: 'edge', decky, lan, phase }];
      case 'detach_decky': {
        const edge = graph.edges.find((e) =>
          e.decky_uuid === deckies.get(decky)?.uuid && e.lan_id === lans.get(lan)?.id);
        return mark('going', 'edges', edge?.id);
      }
      case 'remove_lan': return mark('going', 'lans', lans.get(name)?.id);
      case 'update_lan': return mark('changing', 'lans', lans.get(name)?.id);
      case 'remove_decky': return mark('going', 'deckies', deckies.get(decky)?.uuid);
      case 'update_decky': return mark('changing', 'deckies', deckies.get(decky)?.uuid);
      default: return [];
    }
  }
}
