import fc from 'fast-check';
import { expect, test } from 'vitest';
import type { Summary } from 'topostream';
import { nameKey, orders, RowIndex, statuses, type Look } from '../src/state/rows.ts';

const row = fc.record({
  n: fc.nat(30), name: fc.constantFrom('web-2', 'web-10', 'Web-3', 'db', 'dmz'), status: fc.constantFrom(...statuses),
  version: fc.nat(3), in_flight: fc.nat(2), hour: fc.nat(5),
}).map(({ n, name, status, version, in_flight, hour }): Summary => ({
  id: `id-${n}`, name, status, version, in_flight, reason: null, seq: 1, created_at: '', status_changed_at: '',
  updated_at: `2026-11-29T0${hour}:00:00.000000Z`,
}));
const rows = fc.uniqueArray(row, { selector: ({ id }) => id, maxLength: 30 });
const look = fc.record<Look>({
  search: fc.constantFrom('', 'web', 'id-1', 'b 2'), status: fc.constantFrom('', 'active', 'failed'),
  sort: fc.constantFrom('', ...orders, ...orders.map((o) => '-' + o)),
});
const all = (index: RowIndex): string[] => Array.from({ length: index.length }, (_, i) => index.at(i)!.id);

const rank: Record<string, (row: Summary) => number> = {
  name: () => 0, status: (row) => statuses.indexOf(row.status), version: (row) => -row.version,
  in_flight: (row) => -row.in_flight, changed: (row) => -Date.parse(row.updated_at),
};
const order = <T,>(a: T, b: T): number => a < b ? -1 : a > b ? 1 : 0;

/** The same by filter and sort, each time anew. */
function plain(rows: readonly Summary[], { search, status, sort }: Look): string[] {
  const by = rank[sort.replace('-', '') || 'name']!;
  const found = rows.filter((r) => (!status || r.status === status)
    && search.split(' ').every((word) => `${r.name.toLowerCase()} ${r.id}`.includes(word)));
  found.sort((a, b) => order(by(a), by(b)) || order(nameKey(a.name), nameKey(b.name)) || order(a.id, b.id));
  return (sort.startsWith('-') ? found.reverse() : found).map(({ id }) => id);
}

test('rows that change one after another are always as if they were sorted anew', () => {
  fc.assert(fc.property(fc.array(rows, { minLength: 1, maxLength: 6 }), look, (steps, l) => {
    const index = new RowIndex(l);
    for (const step of steps) {
      index.update(step);
      expect(all(index)).toEqual(plain(step, l));
      all(index).forEach((id, i) => expect(index.indexOf(id)).toBe(i));
    }
    const counted = [...index.counts.values()].reduce((n, count) => n + count, 0);
    expect(counted).toBe(plain(steps.at(-1)!, { ...l, status: '' }).length);
  }));
});

test('so are many that change at once', () => {
  const many = fc.sample(row, { seed: 1, numRuns: 1000 }).map((r, i) => ({ ...r, id: `id-${i}` }));
  const l = { search: '', status: '', sort: 'version' };
  const index = new RowIndex(l);
  index.update(many);
  expect(all(index)).toEqual(plain(many, l));
});

test('numbers within names count as numbers', () => {
  const sorted = ['web-10', 'web-2', 'Web-1'].sort((a, b) => nameKey(a) < nameKey(b) ? -1 : 1);
  expect(sorted).toEqual(['Web-1', 'web-2', 'web-10']);
});

test('a row that leaves the filter goes, and its place is nowhere', () => {
  const [one] = fc.sample(row, { seed: 1, numRuns: 1 }) as [Summary];
  const index = new RowIndex({ search: '', status: 'active', sort: '' });
  index.update([{ ...one, status: 'active' }]);
  expect(index.length).toBe(1);
  index.update([{ ...one, status: 'degraded' }]);
  expect([index.length, index.indexOf(one.id)]).toEqual([0, -1]);
});
