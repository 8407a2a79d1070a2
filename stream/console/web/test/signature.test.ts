import fc from 'fast-check';
import { beforeEach, expect, test, vi } from 'vitest';
import type { StreamEvent } from 'topostream';
import { ago, duration, Latency } from '../src/state/latency.ts';
import { blamed, counted, holds, nothingYet, sentence, short } from '../src/state/promise.ts';
import { batch, signal, type Signal } from '@preact/signals';
import type { Live } from '../src/state/live.ts';
import { createRoute } from '../src/state/route.ts';
import { createSession } from '../src/state/session.ts';
import { connectionWords, createSignature, type Facts } from '../src/state/signature.ts';

const event = (seq: number): StreamEvent =>
  ({ kind: 'event', type: 'deleted', topology_id: 't', seq, ts: '', payload: {} });
const snapshot = (seq: number): StreamEvent => ({ kind: 'snapshot', type: 'snapshot', topology_id: 't', seq, payload: {
  topology_id: 't', status: 'active', reason: null, version: 1, seq, in_flight: [], in_flight_total: 0,
} });

test('a snapshot and what follows it, and a later snapshot, hold the promise', () => {
  fc.assert(fc.property(fc.nat(1000), fc.nat(50), fc.nat(100), (from, n, jump) => {
    let count = counted(nothingYet, snapshot(from));
    for (let i = 1; i <= n; i++) count = counted(count, event(from + i));
    count = counted(count, snapshot(from + n + jump));
    expect(holds(count)).toBe(true);
    expect(count).toMatchObject({ have: from + n + jump, received: n, missing: 0 });
  }));
});

test('one event left out, doubled or put off is counted, and never forgiven', () => {
  fc.assert(fc.property(fc.integer({ min: 3, max: 30 }), fc.nat(), fc.constantFrom('hole', 'double', 'swap'),
    (n, where, fault) => {
      const at = where % (n - 1); // the last one that is missing nobody can miss
      const seqs = Array.from({ length: n }, (_, i) => i + 2);
      if (fault === 'hole') seqs.splice(at, 1);
      else if (fault === 'double') seqs.splice(at, 0, seqs[at]!);
      else [seqs[at], seqs[at + 1]] = [seqs[at + 1]!, seqs[at]!];
      const count = [snapshot(1), ...seqs.map(event), snapshot(n + 2)].reduce(counted, nothingYet);
      expect(holds(count)).toBe(false);
      expect(count.missing + count.twice + count.late).toBeGreaterThan(0);
      expect(sentence(count, n + 2)).toMatch(/missing|twice|late/);
      expect(sentence(count, n + 2)).not.toContain('none missing');
    }));
});

test('the counter says what it has of what there is', () => {
  const count = counted(nothingYet, snapshot(412));
  expect(sentence(count, 412)).toBe('412 of 412, none missing');
  expect(sentence(count, 1500)).toBe('412 of 1,500, none missing');
  expect(short(2 ** 32 + 7)).toBe('1·7');
  const blame = blamed(count, { kind: 'hole', topology_id: 't', expected: 413, got: 415 });
  expect(sentence(blame, 412)).toBe('412 of 412, 2 missing (415 came for 413)');
});

test('half took no more than p50, and 99 of a hundred no more than p99, of the last minute alone', () => {
  fc.assert(fc.property(fc.array(fc.nat(5000), { minLength: 1, maxLength: 300 }), (took) => {
    const latency = new Latency();
    latency.add(0, 1e9); // of long ago
    took.forEach((ms) => latency.add(60_001, ms));
    const { p50, p99, count } = latency.at(60_001)!;
    expect(count).toBe(took.length);
    const atMost = (p: number): number => took.filter((ms) => ms <= p).length / took.length;
    expect(atMost(p50)).toBeGreaterThanOrEqual(0.5);
    expect(atMost(p99)).toBeGreaterThanOrEqual(0.99);
    expect(took).toContain(p50);
    expect(latency.at(200_000)).toBeNull();
  }));
});

test('times in few letters', () => {
  expect([0, 999, 1200, 34_000, 180_000].map(duration)).toEqual(['<1 ms', '999 ms', '1.2 s', '34 s', '3 min']);
  expect([-5, 12_000, 240_000, 3 * 3600e3, 50 * 3600e3].map(ago)).toEqual(['now', '12s', '4m', '3h', '2d']);
});

const facts: Facts = {
  connection: { state: 'open' }, since: 0, now: 100_000, topology: null, behind: 0, resumed: null, expires: null,
  wanted: false, unready: null,
};
const words = (change: Partial<Facts>): string => connectionWords({ ...facts, ...change }).text;

test('the connection in words', () => {
  expect(words({})).toBe('live');
  const waiting = { state: 'waiting', reason: 'the stream has ended', retry_in: 3000 } as const;
  expect(words({ connection: waiting, since: 100_000 })).toBe('reconnecting in 3 s');
  expect(words({ connection: waiting, since: 98_500 })).toBe('reconnecting in 2 s');
  expect(words({ connection: waiting, since: 0 })).toBe('reconnecting now');
  expect(words({ connection: { ...waiting, reason: 'the database is away' } })).toBe('database away, trying again now');
  expect(words({ resumed: { seq: 412, at: 99_000 } })).toBe('resumed at 412');
  expect(words({ resumed: { seq: 412, at: 1000 } })).toBe('live');
  expect(words({ behind: 1204 })).toBe('catching up 1,204');
  expect(words({ expires: 100_000 + 4 * 60_000 })).toBe('live, token ends in 4 min');
  expect(words({ expires: 100_000 + 9000 })).toBe('live, token ends in 9 s');
  expect(words({ unready: 'database: connection refused' })).toBe('database away');
  expect(words({ unready: 'server: draining' })).toBe('live');
  expect(words({ wanted: true })).toBe('token ended');
  expect(words({ connection: { state: 'refused', status: 401, reason: 'x' } })).toBe('not signed in');
  expect(words({ connection: { state: 'connecting' }, since: 99_000 })).toBe('connecting');
  expect(connectionWords({ ...facts, connection: { state: 'connecting' } }).detail).toContain('six connections');
});

const page = window as unknown as Window & typeof globalThis;
let readyz: () => Promise<Response>;
beforeEach(() => {
  readyz = async () => new Response(null, { status: 200 });
  vi.spyOn(page, 'fetch').mockImplementation(() => readyz());
});
let tell: (event: StreamEvent) => void = () => {};
const liveAt = (offset: number): Live => ({
  connection: signal({ state: 'open' }), rows: signal(null), row: signal(undefined), open: signal(null),
  violations: signal([]), offset: signal(offset),
  onEvent: (listener) => { tell = listener; return () => {}; }, reconnect: () => {},
});

test('a token ends by the clock of the server, whatever this machine has', () => {
  for (const offset of [-3600_000, 0, 3600_000]) {
    const exp = Math.round((Date.now() + offset) / 1000) + 4 * 60;
    page.location.hash = `#token=x.${btoa(JSON.stringify({ exp }))}.x`;
    const route = createRoute(page);
    const { words } = createSignature(page, liveAt(offset), createSession(page, route), route);
    expect(words.value.text).toBe('live, token ends in 4 min');
  }
  sessionStorage.clear();
});

test('what is resumed at is where the stream broke off, though events came with what opened it again', () => {
  const live = liveAt(0);
  const connection = live.connection as Signal<{ state: 'open' | 'connecting' }>;
  const open = live.open as Signal<unknown>;
  const head = (seq: number): void => { open.value = { seq, part: 'live' }; };
  head(412);
  page.location.hash = '#/00000000-0000-4000-8000-000000000001';
  const route = createRoute(page);
  const { words } = createSignature(page, live, createSession(page, route), route);
  connection.value = { state: 'connecting' };
  batch(() => {
    connection.value = { state: 'open' };
    head(433);
  });
  expect(words.value.text).toBe('resumed at 412');
});

test('that the database is away is said at once, and no longer than until a stream opens', async () => {
  const live = liveAt(0);
  const connection = live.connection as Signal<{ state: 'open' | 'connecting' }>;
  readyz = async () => Response.json({ detail: 'the database does not answer' }, { status: 503 });
  const route = createRoute(page);
  const { words } = createSignature(page, live, createSession(page, route), route);
  await vi.waitFor(() => expect(words.value.text).toBe('database away'));
  readyz = () => new Promise(() => undefined); // it takes its time
  connection.value = { state: 'connecting' };
  connection.value = { state: 'open' };
  expect(words.value.text).toBe('live');
});

test('the title counts the failures that nobody has seen, of what is open and of the list', () => {
  const live = liveAt(0);
  const id = '00000000-0000-4000-8000-000000000001';
  page.location.hash = `#/${id}`;
  const route = createRoute(page);
  createSignature(page, live, createSession(page, route), route);
  let hidden = true;
  Object.defineProperty(document, 'hidden', { configurable: true, get: () => hidden });
  const fail = (): void => tell({
    kind: 'event', type: 'mutation.failed', topology_id: id, seq: 1, ts: '',
    payload: { mutation_id: 'm', op: 'add_lan', version: 1, reason: 'x' },
  });
  const row = (of: string, status: 'active' | 'failed'): void => tell({ kind: 'list', type: 'topology', payload: {
    id: of, name: 'x', status, reason: null, version: 1, created_at: '', updated_at: '', status_changed_at: '', seq: 1,
    in_flight: 0,
  } });
  fail();
  row('other', 'active');
  row('other', 'failed');
  row('other', 'failed'); // it is failed still
  row(id, 'active');
  row(id, 'failed'); // its own event says so
  expect(document.title).toBe('(2) topostream');
  hidden = false;
  document.dispatchEvent(new Event('visibilitychange'));
  expect(document.title).toBe('topostream');
  fail();
  expect(document.title).toBe('topostream');
});
