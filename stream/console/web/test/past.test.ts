import { signal } from '@preact/signals';
import fc from 'fast-check';
import type { StreamEvent, TopologyState } from 'topostream';
import { expect, test } from 'vitest';
import type { JournalEvent } from '../src/state/journal.ts';
import type { Live } from '../src/state/live.ts';
import { createPast } from '../src/state/past.ts';
import type { Rest } from '../src/state/rest.ts';
import type { Route } from '../src/state/route.ts';
import type { View } from '../src/state/view.ts';
import { settled } from './settled.ts';

/** A journal of events, each of which adds a LAN of its number; what is below `first` is pruned. */
function world(first: number, head: number, cut: (n: number) => number, older = 0) {
  const event = (seq: number): JournalEvent => ({
    type: 'graph', seq, ts: `at ${seq}`, payload: { lans: [{ id: `${seq}`, name: `lan-${seq}` }], before: {} },
  });
  const journal = Array.from({ length: head - first + 1 }, (_, i) => event(first + i));
  journal.unshift(...Array.from({ length: older }, (_, i) => event(i + 1))); // of an older epoch
  const state = signal({
    id: 't', part: 'live', seq: head, status: 'active', reason: null, version: 0, in_flight: [], in_flight_total: 0,
    graph: { lans: journal.map((e) => ({ id: `${e.seq}` })), deckies: [], edges: [] },
  } as unknown as TopologyState);
  const route = signal({ topology: 't', at: null } as Route);
  const past = signal<View | null>(null);
  let listener: (event: StreamEvent) => void = () => undefined;
  let requests = 0;
  const rest = {
    send: async (_: string, path: string) => {
      requests++;
      const params = new URLSearchParams(path.split('?')[1]);
      const [after, limit] = [Number(params.get('after')), Number(params.get('limit'))];
      if (limit < 1 || limit > 1000) throw new Error(`limit ${limit}`);
      const found = journal.filter((e) => e.seq > after).slice(0, Math.max(1, Math.min(limit, cut(limit))));
      return { first: journal[0]?.seq ?? 0, head, events: found };
    },
  } as unknown as Rest;
  const onEvent = (l: typeof listener) => {
    listener = l;
    return () => undefined;
  };
  const live = { onEvent, open: state } as unknown as Live;
  const go = (change: Partial<Route>): void => { route.value = { ...route.value, ...change }; };
  const history = createPast({ route: { current: route, go, takeToken: () => null }, rest, live, past });
  const snapshot = (seq: number): void =>
    listener({ kind: 'snapshot', type: 'snapshot', topology_id: 't', seq, payload: {} } as unknown as StreamEvent);
  snapshot(head);
  return {
    history, past, go, snapshot,
    requests: () => requests,
    add: () => {
      const next = event(state.value.seq! + 1);
      journal.push(next);
      listener({ ...next, kind: 'event', topology_id: 't' } as unknown as StreamEvent);
      const graph = { lans: [...state.value.graph!.lans, { id: `${next.seq}` }], deckies: [], edges: [] };
      state.value = { ...state.value, seq: next.seq, graph } as TopologyState;
    },
  };
}

test('the view at a seq is the same however the journal is cut into pages, and while events come', async () => {
  await fc.assert(fc.asyncProperty(
    fc.integer({ min: 1, max: 50 }), fc.nat({ max: 3000 }), fc.array(fc.nat()), fc.array(fc.nat(), { minLength: 1 }),
    async (first, length, cuts, looks) => {
      let n = 0;
      const w = world(first, first + length, (limit) => (cuts.length ? cuts[n++ % cuts.length]! % 1500 : limit));
      for (const look of looks.slice(0, 5)) {
        const at = first + (look % (length + 1));
        w.go({ at });
        w.add();
        await settled(() => w.past.value?.seq === at && !w.history.reading.value);
        expect(w.past.value!.graph.lans.map((lan) => lan.id).sort())
          .toEqual(Array.from({ length: at - first + 1 }, (_, i) => `${first + i}`).sort());
        expect(w.past.value!.at).toBe(`at ${at}`);
      }
      w.go({ at: null });
      expect(w.past.value).toBe(null);
    }), { numRuns: 60 });
}, 60_000);

test('what is before the journal is shown as of its beginning, and said', async () => {
  const w = world(400, 2500, (limit) => limit);
  w.go({ at: 7 });
  await settled(() => w.past.value?.seq === 400);
  expect(w.history.problem.value).toBe('the journal begins at 400: what was at 7 is not known any more');
  w.go({ at: 401 });
  await settled(() => w.past.value?.seq === 401 && w.history.problem.value === null);
});

test('another epoch is not walked back through', async () => {
  const epoch = 2 ** 32;
  const w = world(epoch + 41, epoch + 60, (limit) => limit, 40);
  w.go({ at: 12 });
  await settled(() => w.past.value?.seq === epoch + 41);
  expect(w.requests()).toBeLessThan(5);
  w.snapshot(2 * epoch + 61); // the next one: what was read is another history's
  expect(w.history.window.value).toEqual({ first: null, head: 2 * epoch + 61, events: [] });
  const long = world(epoch + 1, epoch + 3000, (limit) => limit, 40);
  await long.history.prepare();
  expect(long.history.window.value!.first).toBe(epoch + 1);
});

test('what comes while nobody looks is let go of, but not beneath who reads', async () => {
  const w = world(1, 3000, (limit) => limit);
  const numbers = (): number[] => w.history.window.value!.events.map((e) => e.seq);
  const isWhole = (): boolean => numbers().every((seq, i) => seq === numbers()[0]! + i);
  const reading = w.history.prepare();
  for (let i = 0; i < 4500; i++) w.add();
  await w.history.find(() => true); // takes in what has arrived
  await reading;
  expect([numbers().length, isWhole()]).toEqual([5500, true]);
  await settled(() => {
    w.add();
    void w.history.find(() => true);
    return numbers().length === 2000;
  });
  expect([numbers().at(-1)! > 7500, isWhole()]).toEqual([true, true]);
});

test('what was looked at is not read again', async () => {
  const w = world(1, 5000, (limit) => limit);
  w.go({ at: 10 });
  await settled(() => w.past.value?.seq === 10);
  const read = w.requests();
  for (const at of [4000, 11, 10, 2500]) {
    w.go({ at });
    await settled(() => w.past.value?.seq === at);
  }
  expect(w.requests()).toBe(read);
});

test('steps go one event back and on, and on from the newest is now', async () => {
  const w = world(1, 2000, (limit) => limit);
  const step = async (by: -1 | 1, seq: number | undefined): Promise<void> => {
    await w.history.step(by);
    await settled(() => w.past.value?.seq === seq);
  };
  await step(-1, 1999);
  await step(-1, 1998);
  await step(1, 1999);
  await step(1, undefined);
  expect(w.requests()).toBeLessThan(5);
  expect((await w.history.find((e) => e.seq === 3))?.ts).toBe('at 3');
  expect(await w.history.find((e) => e.seq === 3000)).toBe(undefined);
});
