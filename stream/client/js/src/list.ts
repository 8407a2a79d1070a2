// The list of topologies, as its frames make it.
import type { ListEvent, Summary } from './types.ts';

/** Gives the list after an event; rows are those of a list that has not all come. Null until all of it has. */
export function afterListEvent(
  list: ReadonlyMap<string, Summary> | null, rows: Summary[], { type, payload }: ListEvent,
): ReadonlyMap<string, Summary> | null {
  // Whoever reconnects gets it all again. A server that is behind must take no row back.
  const entry = (row: Summary): [string, Summary] => {
    const old = list?.get(row.id);
    return [row.id, old && old.seq > row.seq ? old : row];
  };
  if (type === 'list') {
    rows.push(...payload.data);
    return payload.more ? list : new Map(rows.splice(0).map(entry));
  }
  const next = new Map(list);
  if (type === 'removed') next.delete(payload.id);
  else next.set(...entry(payload));
  return list && next;
}
