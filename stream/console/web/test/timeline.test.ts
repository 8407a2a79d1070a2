import { signal } from '@preact/signals';
import type { StreamEvent } from 'topostream';
import { expect, test, vi } from 'vitest';
import type { JournalEvent } from '../src/state/journal.ts';
import type { Live } from '../src/state/live.ts';
import type { Rest } from '../src/state/rest.ts';
import type { Route } from '../src/state/route.ts';
import { createTimeline } from '../src/state/timeline.ts';
import { settled } from './settled.ts';

const begin = Date.UTC(2026, 10, 29, 12);
const minute = 60_000;

/**
 * A journal with one event a second up to `head`, whose answers hold `most` events; so many mutations, of whose rows
 * only the oldest and the newest name who asked; and the timeline of it.
 */
function world(head: number, most = 1000, mutations = 0) {
  const event = (seq: number): JournalEvent =>
    ({ type: 'test', seq, ts: new Date(begin + seq * 1000).toISOString(), payload: {} });
  const journal = Array.from({ length: head }, (_, i) => event(i + 1));
  let tell: (event: StreamEvent) => void = () => undefined;
  const onEvent = (listener: typeof tell) => {
    tell = listener;
    return () => undefined;
  };
  const rows = Array.from({ length: mutations }, (_, i) => (
    { id: `m${i + 1}`, position: i + 1, requested_by: i === 0 || i === mutations - 1 ? 'alice' : null }));
  const rest = { send: async (_: string, path: string) => {
    const params = new URLSearchParams(path.split('?')[1]);
    if (path.includes('/mutations?')) {
      const before = Number(params.get('before') ?? Infinity);
      return rows.toReversed().filter(({ position }) => position < before).slice(0, Number(params.get('limit')));
    }
    const [after, limit] = [Number(params.get('after')), Number(params.get('limit'))];
    const events = journal.filter(({ seq }) => seq > after).slice(0, Math.min(limit, most));
    return { first: journal[0]?.seq ?? 0, head: journal.length, events };
  } } as unknown as Rest;
  const route = { current: signal({ topology: 't', filter: '' } as Route), go: () => undefined, takeToken: () => null };
  const frames = { take: (run: () => void) => run(), draw: () => undefined, cancel: () => undefined };
  const page = window as unknown as Window & typeof globalThis;
  const timeline = createTimeline(page, { onEvent } as unknown as Live, route, rest, frames);
  const hour = () => {
    const { bins, from, since } = timeline.hour(begin + 30 * minute);
    return { sum: bins.reduce((n, { count }) => n + count, 0), since: since === from ? 'all' : (since - begin) / 1000 };
  };
  return {
    timeline, hour,
    add: (n: number, live: boolean) => {
      for (let i = 0; i < n; i++) {
        const next = event(journal.length + 1);
        journal.push(next);
        if (live) tell({ ...next, kind: 'event', topology_id: 't' } as unknown as StreamEvent);
      }
    },
    snapshot: () => tell({
      kind: 'snapshot', type: 'snapshot', topology_id: 't', seq: journal.length, payload: { in_flight: [] },
    } as unknown as StreamEvent),
  };
}

test('the last hour says from when on it counts, until the journal is read to its beginning', async () => {
  const w = world(1200);
  expect(w.hour()).toEqual({ sum: 0, since: Infinity });
  w.snapshot();
  await settled(() => w.timeline.all().length === 500);
  expect(w.hour()).toEqual({ sum: 500, since: 701 });
  w.add(3, true);
  expect(w.hour()).toEqual({ sum: 503, since: 701 });
  await w.timeline.older();
  expect(w.hour()).toEqual({ sum: 1003, since: 201 });
  await w.timeline.older();
  expect(w.hour()).toEqual({ sum: 1203, since: 'all' });
});

test('what was missed while the stream was away is counted once it is read, and none of it before', async () => {
  const w = world(100);
  w.snapshot();
  await settled(() => w.timeline.all().length === 100);
  w.add(50, false);
  w.snapshot();
  expect(w.hour().since).toBe(Infinity);
  w.add(2, true); // before what lies between has come
  expect(w.hour()).toEqual({ sum: 102, since: 151 });
  await settled(() => w.timeline.all().length === 152);
  expect(w.hour()).toEqual({ sum: 152, since: 'all' });
});

test('while it is paused the last hour is not said to be all that came, and afterwards it is', async () => {
  const w = world(100);
  w.snapshot();
  await settled(() => w.hour().since === 'all');
  w.timeline.paused.value = true;
  w.add(3, true);
  expect(w.hour()).toEqual({ sum: 100, since: Infinity });
  w.timeline.paused.value = false;
  expect(w.hour()).toEqual({ sum: 103, since: 'all' });
});

test('pages that are short, because events are large, leave no hole', async () => {
  const w = world(700, 7);
  w.snapshot();
  await settled(() => w.timeline.all().length > 0);
  expect(w.timeline.all().map(({ seq }) => seq)).toEqual(Array.from({ length: 500 }, (_, i) => 201 + i));
});

test('of a topology whose journal is empty, what was missed is read', async () => {
  const w = world(0);
  w.snapshot();
  await settled(() => w.hour().since === 'all');
  w.add(5, false);
  w.snapshot();
  await settled(() => w.timeline.all().length === 5);
  expect(w.hour()).toEqual({ sum: 5, since: 'all' });
});

test('who asked is not known of what is older than the newest thousand; of what is gone nobody says it', async () => {
  vi.useFakeTimers();
  try {
    const names = async (mutations: number): Promise<unknown[]> => {
      const { timeline } = world(1, 1000, mutations);
      const wanted = ['m1', 'm2', `m${mutations}`, 'gone'];
      timeline.wantWho(wanted);
      await vi.advanceTimersByTimeAsync(5000);
      return wanted.map((id) => timeline.who(id));
    };
    expect(await names(1001)).toEqual([null, '', 'alice', null]);
    expect(await names(999)).toEqual(['alice', '', 'alice', '']);
  } finally {
    vi.useRealTimers();
  }
});
