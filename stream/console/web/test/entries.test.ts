import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseFilter } from '../src/state/filter.ts';
import { entryOfJournal, Events, merge, placeOf, placeOfSeq, summarize, type Entry } from '../src/state/entries.ts';

const event = (seq: number, type = 'test', payload: unknown = {}): Entry =>
  entryOfJournal({ seq, type, payload, ts: new Date(Date.UTC(2026, 10, 29, 12, 0, seq)).toISOString() });
const raw = (text: string): Entry =>
  ({ kind: 'raw', seq: null, ts: '', type: 'notify', payload: text, summary: text, mutation: null });
const seqs = (entries: readonly Entry[]): (number | null)[] => entries.map((entry) => entry.seq);

test('pages of the journal, in whatever order they come, give each event once and in order', () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.nat(50), fc.nat(20)), { minLength: 1 }), (pages) => {
    let entries: Entry[] = [];
    const wanted = new Set<number>();
    for (const [from, length] of pages) {
      const page = Array.from({ length }, (_, i) => event(from + i));
      for (const { seq } of page) wanted.add(seq!);
      entries = merge(entries, page);
    }
    expect(seqs(entries)).toEqual([...wanted].sort((a, b) => a - b));
  }));
});

test('a raw NOTIFY stays behind the event that it came after', () => {
  expect(merge([event(5), raw('x'), event(6)], [event(3), event(4), event(5)]).map((e) => e.seq ?? e.summary))
    .toEqual([3, 4, 5, 'x', 6]);
});

test('a summary that is cut ends with a whole character', () => {
  for (const before of ['', 'x']) expect(summarize('own', before + '🦊'.repeat(200))).not.toMatch(/\p{Cs}/u);
});

test('the place of a seq is found, whatever stands between', () => {
  const gaps = fc.array(fc.constantFrom('event', 'hole', 'raw'), { maxLength: 40 });
  fc.assert(fc.property(gaps, (kinds) => {
    const entries = kinds.flatMap((kind, i) => kind === 'hole' ? [] : [kind === 'raw' ? raw(`${i}`) : event(i)]);
    for (let seq = -1; seq <= kinds.length; seq++) {
      expect(placeOfSeq(entries, seq)).toBe(entries.findIndex((entry) => entry.seq === seq));
    }
    for (const [i, entry] of entries.entries()) expect(placeOf(entries, entry)).toBe(i);
  }));
});

test('what a filter leaves is the same whether events came before the filter or after', () => {
  const types = fc.array(fc.constantFrom('graph', 'status', 'mutation.failed', 'mutation.applied'));
  fc.assert(fc.property(types, types, (before, after) => {
    const entries = [...before, ...after].map((type, i) => event(i + 1, type, { op: 'x' }));
    const events = new Events();
    events.append(entries.slice(0, before.length));
    events.apply(parseFilter('type:mutation.*'));
    events.append(entries.slice(before.length));
    expect(events.shown).toEqual(entries.filter(({ type }) => type.startsWith('mutation.')));
  }));
});

test('it lets the oldest go, of what the filter leaves, too, and counts them no second time in the last hour', () => {
  const events = new Events();
  events.apply(parseFilter('seq>2'));
  for (let seq = 1; seq <= 20; seq++) events.append([event(seq)], 10);
  expect(events.oldest).toBeGreaterThan(8);
  expect(events.shown).toEqual(events.all);
  const now = Date.UTC(2026, 10, 29, 12, 0, 30);
  const sum = (): number => events.hour(now, 0, false).bins.reduce((n, bin) => n + bin.count, 0);
  expect(sum()).toBe(20);
  const before = events.all.length;
  events.insert(Array.from({ length: 5 }, (_, i) => event(i + 4)));
  expect(events.all).toHaveLength(before + 5);
  expect(sum()).toBe(20);
});

test('an event is summed up in one line', () => {
  expect(summarize('mutation.enqueued', { op: 'add_decky', payload: { name: 'web-1', lan: 'dmz' } }))
    .toBe('add_decky web-1 in dmz');
  expect(summarize('mutation.failed', { op: 'add_lan', reason: 'name taken' })).toBe('add_lan: name taken');
  expect(summarize('status', { state: 'tearing_down', reason: null })).toBe('to tearing down');
  expect(summarize('graph', { lans: [{ name: 'a' }], removed: [{ table: 'edges', id: 'x' }] })).toBe('a; 1 removed');
  fc.assert(fc.property(fc.string(), fc.jsonValue(), (type, payload) => {
    expect(summarize(type, payload).length).toBeLessThan(100_000);
  }));
});
