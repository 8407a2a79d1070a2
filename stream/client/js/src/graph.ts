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
  const rowsOf = (from: object | undefined, table: keyof Graph): readonly Row[] =>
    (from as Record<string, readonly Row[]> | undefined)?.[table] ?? [];
  const gone = new Set<unknown>(backwards ? [] : changes.removed?.map(({ id }) => id));
  if (backwards) {
    // What was not there before was made by these changes.
    for (const table of tables) for (const row of rowsOf(changes, table)) gone.add(key(row));
    for (const table of tables) for (const row of rowsOf(changes.before, table)) gone.delete(key(row));
  }
  const result: Record<string, unknown> = {};
  for (const table of tables) {
    const rows = rowsOf(graph, table);
    const written = new Map(rowsOf(backwards ? changes.before : changes, table).map((row) => [key(row), row]));
    const next: Row[] = [];
    for (const row of rows) {
      const write = written.get(key(row));
      written.delete(key(row));
      if (write) next.push(backwards || changes.truncated ? { ...row, ...write } : write);
      // An edge goes with its LAN or decky.
      else if (![key(row), row.lan_id, row.decky_uuid].some((id) => gone.has(id))) next.push(row);
    }
    next.push(...written.values());
    result[table] = next.length === rows.length && next.every((row, i) => row === rows[i]) ? rows : next;
  }
  return result as unknown as Graph;
}
