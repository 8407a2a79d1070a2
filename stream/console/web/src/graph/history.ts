// What an event of the journal is about, and what it changed.
import type { Graph, GraphChanges } from 'topostream';
import type { JournalEvent } from '../state/journal.ts';
import { editsOf } from './inflight.ts';

export interface Target {
  readonly kind: 'lan' | 'decky' | 'edge' | 'mutation';
  readonly key: string;
  /** Of a LAN or decky; of an edge the empty string. */
  readonly name: string;
}

export interface FieldChange {
  readonly field: string;
  readonly from: unknown;
  readonly to: unknown;
}

/** One row that an event made, removed or changed. */
export interface RowChange {
  readonly kind: 'lan' | 'decky' | 'edge';
  readonly key: string;
  readonly name: string;
  readonly what: 'added' | 'changed' | 'removed';
  readonly fields: readonly FieldChange[];
}

type Row = Readonly<Record<string, unknown>>;
const kinds = { lans: 'lan', deckies: 'decky', edges: 'edge' } as const;
const tables = Object.keys(kinds) as (keyof Graph)[];
const isObject = (value: unknown): value is Row => value !== null && typeof value === 'object';

/** The changes that an event carries, if it carries any: a mutation's result or a graph event's payload. */
function graphChangesOf({ type, payload }: JournalEvent): GraphChanges | null {
  if (!isObject(payload)) return null;
  if (type === 'graph') return payload as GraphChanges;
  return type === 'mutation.applied' && isObject(payload.result) ? payload.result as GraphChanges : null;
}

const rowsOf = (from: object | undefined, table: keyof Graph): readonly Row[] => {
  const rows = (from as Partial<Record<keyof Graph, unknown>> | undefined)?.[table];
  return Array.isArray(rows) ? rows.filter(isObject) : [];
};
const keyOf = (row: Row): string => String(row.id ?? row.uuid);

/** What an event changed, row by row and field by field. */
export function rowChangesOf(event: JournalEvent): RowChange[] {
  const changes = graphChangesOf(event);
  if (!changes) return [];
  return tables.flatMap((table): RowChange[] => {
    const kind = kinds[table];
    const before = new Map(rowsOf(changes.before, table).map((row) => [keyOf(row), row]));
    const now = rowsOf(changes, table);
    const rest = new Set((changes.removed ?? []).filter((r) => r.table === table).map((r) => r.id));
    for (const row of now) rest.delete(keyOf(row));
    return [
      ...now.map((row): RowChange => {
        const key = keyOf(row);
        const old = before.get(key);
        return {
          kind, key, name: String(row.name ?? ''), what: old ? 'changed' : 'added',
          fields: old ? Object.keys(old).filter((field) => field !== 'id' && field !== 'uuid')
            .map((field) => ({ field, from: old[field], to: row[field] })) : [],
        };
      }),
      ...[...rest].map((key): RowChange => (
        { kind, key, name: String(before.get(key)?.name ?? ''), what: 'removed', fields: [] })),
    ];
  });
}

/** Tells whether an event is about something: it changes its row or an edge of it, or an edit names it. */
export function touches(event: JournalEvent, target: Target): boolean {
  const payload = isObject(event.payload) ? event.payload : {};
  if (target.kind === 'mutation') return payload.mutation_id === target.key;
  const changes = graphChangesOf(event);
  if (changes) {
    const all = tables.flatMap((table) => [...rowsOf(changes, table), ...rowsOf(changes.before, table)]);
    return all.some((row) => row.id === target.key || row.uuid === target.key || row.decky_uuid === target.key
      || row.lan_id === target.key) || (changes.removed ?? []).some(({ id }) => id === target.key);
  }
  if (target.name === '') return false;
  if (event.type.startsWith('mutation.')) {
    return editsOf(String(payload.op), payload.payload).some(({ op, payload: p }) =>
      target.kind === 'lan' ? p.lan === target.name || (op.endsWith('_lan') && p.name === target.name)
        : p.decky === target.name || (op === 'add_decky' && p.name === target.name));
  }
  // What an event of one's own is about, it says in a member of any name.
  return Object.values(payload).some((value) => value === target.key || value === target.name);
}

/** What an event did, in few words. */
export function summaryOf(event: JournalEvent): string {
  const payload = isObject(event.payload) ? event.payload : {};
  const changes = rowChangesOf(event);
  if (changes.length) {
    const shown = changes.slice(0, 3).map((c) => {
      const name = c.name || c.kind;
      return c.what === 'changed' ? `${name}: ${c.fields.map(({ field }) => field).join(', ')}` : `${c.what} ${name}`;
    });
    return shown.join('; ') + (changes.length > 3 ? ` and ${changes.length - 3} more` : '');
  }
  if (event.type === 'mutation.failed') return `${String(payload.op)}: ${String(payload.reason)}`;
  if (event.type.startsWith('mutation.')) return String(payload.op ?? '');
  if (event.type === 'status') return String(payload.state ?? '');
  return '';
}
