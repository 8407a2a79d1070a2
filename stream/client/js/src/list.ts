// The list of topologies, as its frames make it.
import type { ListEvent, Summary } from './types.ts';

/** By id; null until all of it has come. */
export type Rows = Map<string, Summary> | null;

/** Takes an event into the rows, and gives them, or new ones. `arrivals` holds the frames so far of a list in parts. */
export function takeListEvent(rows: Rows, arrivals: Summary[], { type, payload }: ListEvent): Rows {
  // After a reconnect the whole list comes again: a server that is behind must not make a row older.
  const entry = (row: Summary): [string, Summary] => {
    const old = rows?.get(row.id);
    return [row.id, old && old.seq > row.seq ? old : row];
  };
  if (type === 'list') {
    arrivals.push(...payload.data);
    return payload.more ? rows : new Map(arrivals.splice(0).map(entry));
  }
  if (type === 'removed') rows?.delete(payload.id);
  else rows?.set(...entry(payload));
  return rows;
}
