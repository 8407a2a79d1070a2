import type { Graph, GraphChanges } from './types.ts';

type Row = Record<string, unknown>;
const tables = ['lans', 'deckies', 'edges'] as const;
const key = (row: Row): unknown => row.id ?? row.uuid;

/**
 * Gives the graph after changes, or, backwards, the graph before them. It changes neither argument, and gives the same
 * array for a table in which nothing changed. Rows that are new come last. The parts of a split statement are applied
 * one after another, backwards in the opposite order.
 *
 * Changes that are `truncated` leave a decky's `decky_config` and `services` as they were.
 */
export function applyGraph(graph: Graph, changes: GraphChanges, backwards = false): Graph {
  const gone = new Set<unknown>();
  for (const table of tables) {
    if (!backwards) continue;
    // What was not there before was made by these changes.
    const before = new Set((changes.before?.[table] ?? []).map((row) => key(row as Row)));
    for (const row of changes[table] ?? []) {
      const id = key(row as unknown as Row);
      if (!before.has(id)) gone.add(id);
    }
  }
  if (!backwards) for (const { id } of changes.removed ?? []) gone.add(id);
  const result: Record<string, unknown> = {};
  for (const table of tables) {
    const rows = graph[table] as readonly unknown[] as readonly Row[];
    const writes = ((backwards ? changes.before?.[table] : changes[table]) ?? []) as readonly unknown[] as Row[];
    const written = new Map(writes.map((row) => [key(row), row]));
    let changed = false;
    const next: Row[] = [];
    for (const row of rows) {
      const write = written.get(key(row));
      written.delete(key(row));
      // An edge goes with its LAN or decky.
      if (write) next.push(backwards || changes.truncated ? { ...row, ...write } : write);
      else if (!gone.has(key(row)) && !gone.has(row.lan_id) && !gone.has(row.decky_uuid)) next.push(row);
      changed ||= next.at(-1) !== row;
    }
    result[table] = changed || written.size ? [...next, ...written.values()] : rows;
  }
  return result as unknown as Graph;
}
