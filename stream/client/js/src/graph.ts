import type { Graph, GraphChanges } from './types.ts';

type Row = Record<string, unknown>;
const tables = ['lans', 'deckies', 'edges'] as const;
const key = (row: { readonly id?: unknown; readonly uuid?: unknown }): unknown => row.id ?? row.uuid;

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
  const all = (from: object | undefined): Row[] => tables.flatMap((table) => rowsOf(from, table));
  const target = backwards ? changes.before : changes;
  // Backwards: what was not there before was made by these changes.
  const gone = new Set((backwards ? all(changes) : changes.removed)?.map(key));
  for (const row of all(target)) gone.delete(key(row));
  const result: Record<string, unknown> = {};
  for (const table of tables) {
    const rows = rowsOf(graph, table);
    const written = new Map(rowsOf(target, table).map((row) => [key(row), row]));
    const next: Row[] = [];
    for (const row of rows) {
      const write = written.get(key(row));
      if (written.delete(key(row))) next.push(backwards || changes.truncated ? { ...row, ...write } : write!);
      // An edge goes with its LAN or decky.
      else if (!gone.has(key(row)) && !gone.has(row.lan_id) && !gone.has(row.decky_uuid)) next.push(row);
    }
    next.push(...written.values());
    result[table] = next.length === rows.length && next.every((row, i) => row === rows[i]) ? rows : next;
  }
  return result as unknown as Graph;
}
