import { afterEach, beforeEach, expect, expectTypeOf, test } from 'vitest';
import { RefusedError, TopologyStream, type Options, type StreamEvent, type Violation } from '../src/index.ts';
import { Clock, epoch, FakeServer, problem, until, uuid } from './server.ts';

let server: FakeServer;
let clock: Clock;
const open: TopologyStream[] = [];

beforeEach(async () => {
  server = await FakeServer.start();
  clock = new Clock();
});

afterEach(async () => {
  for (const stream of open.splice(0)) stream.close();
  await server.stop();
});

interface Followed { stream: TopologyStream; events: StreamEvent[]; violations: Violation[] }

function follow(options: Options = {}): Followed {
  const events: StreamEvent[] = [];
  const violations: Violation[] = [];
  const stream = new TopologyStream({
    url: server.url, host: clock.host(), onEvent: (e) => events.push(e), onViolation: (v) => violations.push(v),
    ...options,
  });
  open.push(stream);
  return { stream, events, violations };
}

const seqs = (events: StreamEvent[], id?: string): (number | string)[] => events.flatMap((e) =>
  (e.kind === 'event' || e.kind === 'snapshot') && (!id || e.topology_id === id)
    ? [e.kind === 'snapshot' ? `snapshot ${e.seq - epoch}` : e.seq - epoch] : []);
const state = (f: Followed): string => f.stream.getSnapshot().connection.state;

/** Lets the pause before the next try pass, and no more: what runs out after it is the next try's own patience. */
function pass(f: Followed): void {
  const { connection } = f.stream.getSnapshot();
  if (connection.state === 'waiting') clock.advance(connection.retry_in);
}

test('a snapshot at N, then N + 1, N + 2, and the replayed state is of the last', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id.toUpperCase()] });
  await until(() => f.events.length === 1);
  server.emit(id, 'status', { state: 'degraded', reason: 'x' });
  server.emit(id, 'decky.service_added', { decky_name: 'web-1' });
  await until(() => f.events.length === 3);
  expect(seqs(f.events)).toEqual(['snapshot 1', 2, 3]);
  expect(f.stream.getSnapshot().topologies[id]).toMatchObject({
    part: 'live', seq: epoch + 3, status: 'degraded', reason: 'x', broken: null,
  });
  expect(f.violations).toEqual([]);
  expect(server.requests[0]!.body).toEqual({ topologies: { [id]: null } });
});

test('nothing is sent before somebody listens', async () => {
  const id = server.add(1);
  const stream = new TopologyStream({ url: server.url, topologies: [id], host: clock.host() });
  open.push(stream);
  stream.add(server.add(2));
  expect(stream.getSnapshot().connection).toEqual({ state: 'idle' });
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(server.requests).toEqual([]);
  const off = stream.subscribe(() => {});
  await until(() => server.requests.length === 1);
  off();
});

test('a stream that is cut in the middle of a frame resumes by the vector and misses nothing', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ topologies: [a, b] });
  await until(() => f.events.length === 2);
  server.emit(a, 'x');
  await until(() => f.events.length === 3);
  server.live!.write('event: x\nid: 3\ndata: {"topic":"topology.');
  server.live!.cut();
  await until(() => state(f) === 'waiting');
  server.emit(a, 'x');
  server.emit(b, 'x');
  clock.advance(2000);
  await until(() => f.events.length === 5);
  expect(server.requests[1]!.body.topologies).toEqual({ [a]: epoch + 2, [b]: epoch + 1 });
  expect(seqs(f.events, a)).toEqual(['snapshot 1', 2, 3]);
  expect(seqs(f.events, b)).toEqual(['snapshot 1', 2]);
  expect(f.violations).toEqual([]);
});

test('it waits as long as the server says: its reconnection time first', async () => {
  const id = server.add(1);
  server.retry = 3210;
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  server.live!.end();
  await until(() => state(f) === 'waiting');
  expect(f.stream.getSnapshot().connection).toEqual(
    { state: 'waiting', reason: 'the stream has ended', retry_in: 3210 });
  clock.advance(3209);
  expect(state(f)).toBe('waiting');
  clock.advance(1);
  await until(() => state(f) === 'open');
});

test('a Retry-After counts, in seconds or as a date, and the reason is the problem’s', async () => {
  const id = server.add(1);
  server.next.push(problem(503, 'the database is away', { 'Retry-After': '77' }));
  const f = follow({ topologies: [id] });
  await until(() => state(f) === 'waiting');
  expect(f.stream.getSnapshot().connection).toEqual(
    { state: 'waiting', reason: 'the database is away', retry_in: 77_000 });
  const date = new Date(Date.now() + 3600_000).toUTCString();
  server.next.push(problem(429, 'too many', { 'Retry-After': date }));
  clock.advance(77_000);
  await until(() => {
    const c = f.stream.getSnapshot().connection;
    return c.state === 'waiting' && c.reason === 'too many' && c.retry_in > 3500_000;
  });
  pass(f);
  await until(() => f.events.length === 1);
});

test('failures double the pause up to 30 s, with jitter, and success resets it', async () => {
  const id = server.add(1);
  const pauses: number[] = [];
  for (let i = 0; i < 6; i++) server.next.push((_, response) => void response.socket!.destroy());
  let random = 0;
  const f = follow({
    topologies: [id], host: clock.host({ Math: { random: () => random } }),
    onConnection: (c) => {
      if (c.state !== 'waiting') return;
      pauses.push(c.retry_in);
      random = 1 - random;
    },
  });
  for (let i = 1; i <= 6; i++) {
    await until(() => pauses.length === i);
    pass(f);
  }
  await until(() => f.events.length === 1);
  expect(pauses).toEqual([1500, 5000, 6000, 20_000, 22_500, 37_500]);
  server.live!.cut();
  await until(() => pauses.length === 7);
  expect(pauses[6]).toBe(2000);
});

test('a server that is stopped and started again is found', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  const port = Number(new URL(server.url).port);
  await server.stop();
  await until(() => state(f) === 'waiting');
  clock.advance(2000);
  await until(() => f.stream.getSnapshot().connection.state === 'waiting');
  server.emit(id, 'x');
  await server.listen(port);
  await until(() => {
    pass(f);
    return f.events.length === 2;
  });
  expect(seqs(f.events)).toEqual(['snapshot 1', 2]);
});

test('after three keepalives without a byte it reconnects; a comment is a byte', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id], keepalive: 1000 });
  await until(() => f.events.length === 1);
  const opened = server.requests.length;
  clock.advance(2900);
  server.live!.write(': keepalive\n\n');
  server.emit(id, 'x'); // says that the comment before it has arrived
  await until(() => f.events.length === 2);
  clock.advance(2900);
  expect(state(f)).toBe('open');
  clock.advance(100);
  expect(f.stream.getSnapshot().connection).toMatchObject({ state: 'waiting', reason: 'no byte came for 3000 ms' });
  pass(f);
  await until(() => server.requests.length === opened + 1);
});

test('a request that nobody answers is given up, too', async () => {
  const id = server.add(1);
  server.next.push(() => {});
  const f = follow({ topologies: [id] });
  await until(() => server.requests.length === 1);
  clock.advance(45_000);
  await until(() => state(f) === 'waiting');
  pass(f);
  await until(() => f.events.length === 1);
});

test('the token comes from getToken, anew for each request; none is sent where there is none', async () => {
  const id = server.add(1);
  let n = 0;
  const f = follow({ topologies: [id], getToken: async () => (++n < 3 ? `token-${n}` : null) });
  for (let i = 1; i <= 3; i++) {
    await until(() => server.requests.length === i && state(f) === 'open');
    server.live!.cut();
    await until(() => state(f) === 'waiting');
    pass(f);
  }
  expect(server.requests.slice(0, 3).map((r) => r.token)).toEqual(['token-1', 'token-2', undefined]);
});

test('getToken that fails is tried again', async () => {
  const id = server.add(1);
  let n = 0;
  const f = follow({ topologies: [id], getToken: () => (n++ ? 't' : Promise.reject(new Error('no network'))) });
  await until(() => state(f) === 'waiting');
  expect(f.stream.getSnapshot().connection).toMatchObject({ reason: 'no network' });
  pass(f);
  await until(() => f.events.length === 1);
});

test('a 401 asks getToken once more, with the token that was refused', async () => {
  const id = server.add(1);
  server.next.push(problem(401, 'the token has expired'));
  const asked: (string | undefined)[] = [];
  const getToken = (rejected?: string): string => { asked.push(rejected); return rejected ? 'new' : 'old'; };
  const f = follow({ topologies: [id], getToken });
  await until(() => f.events.length === 1);
  expect(asked).toEqual([undefined, 'old']);
  expect(server.requests.map((r) => r.token)).toEqual(['old', 'new']);
});

test.each([401, 403, 404, 400])('a %i is final, with a state that says so, until reconnect()', async (status) => {
  const id = server.add(1);
  server.next.push(problem(status, 'first'), problem(status, 'second'));
  const f = follow({ topologies: [id], getToken: () => 't' });
  await until(() => state(f) === 'refused');
  const tries = status === 401 ? 2 : 1;
  expect(f.stream.getSnapshot().connection).toEqual(
    { state: 'refused', status, reason: tries === 2 ? 'second' : 'first' });
  clock.advance(3600_000);
  f.stream.add(server.add(2));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(server.requests).toHaveLength(tries);
  server.next.length = 0;
  f.stream.reconnect();
  await until(() => f.events.length === 2);
});

test('for await throws what was refused', async () => {
  const id = server.add(1);
  server.next.push(problem(403, 'not yours'));
  const stream = new TopologyStream({ url: server.url, topologies: [id], host: clock.host() });
  open.push(stream);
  const all = (async () => { for await (const event of stream) expect(event).toBeUndefined(); })();
  await expect(all).rejects.toThrow(RefusedError);
  await expect(all).rejects.toMatchObject({ status: 403, message: 'not yours' });
});

test('token_expired: at once with a new token, and nothing is missed', async () => {
  const id = server.add(1);
  const asked: (string | undefined)[] = [];
  const f = follow({ topologies: [id], getToken: (r) => { asked.push(r); return `t${asked.length}`; } });
  await until(() => f.events.length === 1);
  server.live!.notice('token_expired', { reason: 'exp' });
  server.live!.end();
  await until(() => {
    const c = f.stream.getSnapshot().connection;
    return c.state === 'waiting' && c.retry_in === 0 || asked.length === 2;
  });
  server.emit(id, 'x');
  await until(() => seqs(f.events).length === 2);
  expect(asked).toEqual([undefined, 't1']);
  expect(seqs(f.events)).toEqual(['snapshot 1', 2]);
  expect(f.events[1]).toMatchObject({ kind: 'notice', type: 'token_expired', topology_id: null });
});

test('tokens that expire at once do not make a storm', async () => {
  const id = server.add(1);
  const expired = (_: unknown, response: never): void => {
    const stream = server.begin({ topologies: {} }, response);
    stream.notice('token_expired', { reason: 'exp' });
    stream.end();
  };
  server.next.push(expired as never, expired as never);
  const f = follow({ topologies: [id], getToken: () => 't' });
  for (const pause of [2000, 4000]) {
    await until(() => {
      const c = f.stream.getSnapshot().connection;
      return c.state === 'waiting' && c.retry_in === pause;
    });
    clock.advance(pause);
  }
  await until(() => seqs(f.events).length === 1);
});

test('unavailable for the whole stream is waited for as long as its retry says', async () => {
  const id = server.add(1);
  server.next.push((_, response) => {
    const stream = server.begin({ topologies: {} }, response);
    stream.write('retry: 45000\n\n');
    stream.notice('unavailable', { reason: 'drain' });
    stream.end();
  });
  const f = follow({ topologies: [id] });
  await until(() => state(f) === 'waiting');
  expect(f.stream.getSnapshot().connection).toEqual({ state: 'waiting', reason: 'drain', retry_in: 45_000 });
});

test('unavailable for one part leaves the others alone, and the part is asked for again', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  server.next.push((request, response) => {
    const stream = server.begin(request.body, response);
    server.snapshot(stream, a);
    stream.notice('unavailable', { topology_id: b, reason: 'a lock is held' });
  });
  const f = follow({ topologies: [a, b] });
  await until(() => f.events.length === 2);
  expect(f.stream.getSnapshot().topologies[b]).toMatchObject({ part: 'unavailable', problem: 'a lock is held' });
  expect(f.stream.getSnapshot().topologies[a]).toMatchObject({ part: 'live' });
  server.emit(a, 'x');
  await until(() => f.events.length === 3);
  clock.advance(2000);
  await until(() => f.events.length === 4);
  expect(f.stream.getSnapshot().topologies[b]).toMatchObject({ part: 'live', problem: null, seq: epoch + 1 });
  expect(seqs(f.events, a)).toEqual(['snapshot 1', 2]);
  await until(() => server.open.length === 1);
});

test('deleted ends its part; an unknown topology is deleted; when all are, the stream has ended', async () => {
  const a = server.add(1);
  const f = follow({ topologies: [a, uuid(9)] });
  await until(() => f.events.length === 2);
  expect(f.stream.getSnapshot().topologies[uuid(9)]!.part).toBe('deleted');
  const rest = (async () => {
    const types: string[] = [];
    for await (const event of f.stream) types.push(event.type);
    return types;
  })();
  server.emit(a, 'deleted');
  server.live!.end();
  expect(await rest).toEqual(['deleted']);
  expect(state(f)).toBe('ended');
  expect(f.stream.getSnapshot().topologies[a]).toMatchObject({ part: 'deleted', seq: epoch + 2 });
  f.stream.add(server.add(3));
  await until(() => state(f) === 'open');
  expect(Object.keys(server.requests.at(-1)!.body.topologies)).toEqual([uuid(3)]);
});

test('add opens a new stream before the old one closes, and what comes on both comes once', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ topologies: [a] });
  await until(() => f.events.length === 1);
  const old = server.live!;
  let answer!: () => void;
  server.next.push((request, response) => { answer = () => server.serve(request, response); });
  f.stream.add(b);
  await until(() => answer);
  server.emit(a, 'x'); // after the vector was sent: the old stream has it first
  await until(() => f.events.length === 2);
  expect(old.open).toBe(true);
  answer();
  await until(() => seqs(f.events, b).length === 1);
  server.emit(a, 'x');
  await until(() => seqs(f.events, a).length === 3);
  expect(server.requests[1]!.body.topologies).toEqual({ [a]: epoch + 1, [b]: null });
  expect(seqs(f.events, a)).toEqual(['snapshot 1', 2, 3]);
  expect(f.violations).toEqual([]);
  await until(() => !old.open);
});

test('a new stream that cannot be had leaves the old one alone', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ topologies: [a] });
  await until(() => f.events.length === 1);
  server.next.push(problem(503, 'too many streams', { 'Retry-After': '5' }));
  f.stream.add(b);
  await until(() => server.requests.length === 2);
  server.emit(a, 'x');
  await until(() => f.events.length === 2);
  expect(state(f)).toBe('open');
  await until(() => {
    if (server.requests.length < 3) clock.advance(5000);
    return f.events.length === 3;
  });
  expect(seqs(f.events, a)).toEqual(['snapshot 1', 2]);
});

test('where a browser has no connection left for the new stream, the old one makes room', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ topologies: [a] });
  await until(() => f.events.length === 1);
  const old = server.live!;
  server.next.push((request, response) => {
    old.response.on('close', () => server.serve(request, response));
  });
  f.stream.add(b);
  await until(() => server.requests.length === 2);
  expect(old.open).toBe(true);
  clock.advance(5000);
  await until(() => seqs(f.events, b).length === 1);
});

test('a topology that the token does not hold for is refused alone', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ topologies: [a] });
  await until(() => f.events.length === 1);
  server.next.push(problem(403, 'the token does not hold for it'));
  f.stream.add(b);
  await until(() => f.stream.getSnapshot().topologies[b]!.part === 'refused');
  expect(f.stream.getSnapshot().topologies[b]!.problem).toBe('the token does not hold for it');
  server.emit(a, 'x');
  await until(() => f.events.length === 2);
  server.live!.cut();
  await until(() => state(f) === 'waiting');
  clock.advance(2000);
  await until(() => state(f) === 'open');
  expect(Object.keys(server.requests.at(-1)!.body.topologies)).toEqual([a]);
});

test('a topology that the token does not hold for leaves a stream of the list as it is', async () => {
  const b = server.add(2);
  const f = follow({ list: true });
  await until(() => state(f) === 'open');
  server.next.push(problem(403, 'the token does not hold for it'));
  f.stream.add(b);
  await until(() => f.stream.getSnapshot().topologies[b]!.part === 'refused');
  expect(state(f)).toBe('open');
  clock.advance(60_000);
  expect(server.requests).toHaveLength(2);
});

test('remove forgets, and several changes in one turn make one new stream', async () => {
  const [a, b, c] = [server.add(1), server.add(2), server.add(3)];
  const f = follow({ topologies: [a, b] });
  await until(() => f.events.length === 2);
  f.stream.remove(b);
  f.stream.add(b);
  f.stream.remove(a);
  f.stream.add(c);
  await until(() => seqs(f.events, c).length === 1);
  expect(server.requests).toHaveLength(2);
  expect(server.requests[1]!.body.topologies).toEqual({ [b]: null, [c]: null });
  expect(Object.keys(f.stream.getSnapshot().topologies).sort()).toEqual([b, c]);
  f.stream.remove(b);
  f.stream.remove(c);
  await until(() => state(f) === 'idle');
  await until(() => server.open.length === 0);
});

test('a topology that is removed and added again in one turn is a new one: it gets a snapshot', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  f.stream.remove(id);
  f.stream.add(id);
  expect(f.stream.getSnapshot().topologies[id]).toMatchObject({ part: 'waiting', seq: null });
  await until(() => f.events.length === 2);
  expect(server.requests[1]!.body.topologies).toEqual({ [id]: null });
  expect(seqs(f.events)).toEqual(['snapshot 1', 'snapshot 1']);
  expect(f.violations).toEqual([]);
});

test('what the old stream loses while the new one is being opened is asked for again', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ topologies: [a] });
  await until(() => f.events.length === 1);
  let answer!: () => void;
  server.next.push((request, response) => { answer = () => server.serve(request, response); });
  f.stream.add(b);
  await until(() => answer);
  for (let n = 2; n <= 3; n++) server.topologies.get(a)!.events.push({ seq: epoch + n, type: 'x', payload: {} });
  server.live!.event(a, { seq: epoch + 3, type: 'x', payload: {} });
  await until(() => f.violations.length === 1);
  answer();
  await until(() => seqs(f.events, b).length === 1);
  clock.advance(2000);
  await until(() => seqs(f.events, a).length === 2);
  expect(server.requests[2]!.body.topologies).toEqual({ [a]: null, [b]: epoch + 1 });
  expect(f.stream.getSnapshot().topologies[a]).toMatchObject({ part: 'live', seq: epoch + 3 });
  server.emit(a, 'x');
  await until(() => seqs(f.events, a).length === 3);
  expect(seqs(f.events, a)).toEqual(['snapshot 1', 'snapshot 3', 4]);
});

test('a part that was unavailable is live again where it resumes with nothing missed', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  server.live!.notice('unavailable', { topology_id: id, reason: 'a lock is held' });
  await until(() => f.stream.getSnapshot().topologies[id]!.part === 'unavailable');
  clock.advance(2000);
  await until(() => f.stream.getSnapshot().topologies[id]!.part === 'live');
  expect(server.requests[1]!.body.topologies).toEqual({ [id]: epoch + 1 });
  expect(f.stream.getSnapshot().topologies[id]!.problem).toBeNull();
});

test('a callback that throws stops no other', async () => {
  const id = server.add(1);
  const thrown: unknown[] = [];
  const others = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => thrown.push(error));
  try {
    const events: StreamEvent[] = [];
    const f = follow({ topologies: [id], onEvent: () => { throw new Error('mine'); } });
    f.stream.on('event', (event) => events.push(event));
    await until(() => events.length === 1 && thrown.length === 1);
    expect(thrown).toMatchObject([{ message: 'mine' }]);
    expect(state(f)).toBe('open');
  } finally {
    process.removeAllListeners('uncaughtException');
    for (const listener of others) process.on('uncaughtException', listener);
  }
});

test('a hole is a state and a callback, and a new snapshot puts the state right', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ topologies: [a, b] });
  await until(() => f.events.length === 2);
  const stream = server.live!;
  stream.event(a, { seq: epoch + 3, type: 'x', payload: {} });
  await until(() => f.violations.length === 1);
  expect(f.violations).toEqual([{ kind: 'hole', topology_id: a, expected: epoch + 2, got: epoch + 3 }]);
  expect(f.stream.getSnapshot().topologies[a]).toMatchObject({ part: 'waiting', broken: f.violations[0] });
  expect(f.stream.getSnapshot().topologies[b]).toMatchObject({ part: 'live', broken: null });
  for (let i = 0; i < 3; i++) server.topologies.get(a)!.events.push({ seq: epoch + 2 + i, type: 'x', payload: {} });
  clock.advance(2000);
  await until(() => seqs(f.events, a).length === 2);
  expect(server.requests[1]!.body.topologies).toEqual({ [a]: null, [b]: epoch + 1 });
  expect(seqs(f.events, a)).toEqual(['snapshot 1', 'snapshot 4']);
  server.emit(a, 'x');
  await until(() => seqs(f.events, a).length === 3);
  expect(f.stream.getSnapshot().topologies[a]).toMatchObject({ part: 'live', broken: { kind: 'hole' } });
});

test('a double is told, and given once', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  const seq = server.emit(id, 'x');
  server.live!.event(id, { seq, type: 'x', payload: {} });
  server.emit(id, 'x');
  await until(() => seqs(f.events).length === 3);
  expect(seqs(f.events)).toEqual(['snapshot 1', 2, 3]);
  expect(f.violations).toEqual([{ kind: 'double', topology_id: id, expected: seq + 1, got: seq }]);
});

test('a wrong order is told: what comes late, and what the snapshot had already', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  const send = (n: number): void => server.live!.event(id, { seq: epoch + n, type: 'x', payload: {} });
  send(0);
  send(3);
  send(2);
  await until(() => f.violations.length === 3);
  expect(f.violations.map((v) => v.kind)).toEqual(['order', 'hole', 'order']);
});

test('an event before any snapshot is a hole; a resume that does not begin with the next is one, too', async () => {
  const id = server.add(1);
  server.next.push((request, response) => {
    server.begin(request.body, response).event(id, { seq: epoch + 1, type: 'x', payload: {} });
  });
  const f = follow({ topologies: [id] });
  await until(() => f.violations.length === 1);
  expect(f.violations[0]).toEqual({ kind: 'hole', topology_id: id, expected: null, got: epoch + 1 });
  server.live!.cut();
  await until(() => state(f) === 'waiting');
  pass(f);
  await until(() => seqs(f.events).length === 1);
  server.live!.cut();
  await until(() => state(f) === 'waiting');
  server.next.push((request, response) => {
    server.begin(request.body, response).event(id, { seq: epoch + 3, type: 'x', payload: {} });
  });
  pass(f);
  await until(() => f.violations.length === 2);
  expect(f.violations[1]).toEqual({ kind: 'hole', topology_id: id, expected: epoch + 2, got: epoch + 3 });
});

test('a snapshot that is older than what was there is told, and believed', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  server.emit(id, 'x');
  server.snapshot(server.live!, id, epoch + 1);
  await until(() => seqs(f.events).length === 3);
  expect(f.violations).toEqual([{ kind: 'back', topology_id: id, expected: epoch + 2, got: epoch + 1 }]);
  expect(f.stream.getSnapshot().topologies[id]!.seq).toBe(epoch + 1);
});

test('a snapshot of a new epoch, or one after retention, is no violation', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  server.snapshot(server.live!, id, epoch + 2 ** 32 + 7);
  server.live!.event(id, { seq: epoch + 2 ** 32 + 8, type: 'x', payload: {} });
  await until(() => seqs(f.events).length === 3);
  expect(f.violations).toEqual([]);
});

test.each([
  ['no number', '{"topic":"topology.ID.x","type":"x","ts":"","journaled":true,"payload":{}}', undefined],
  ['an id that is another number', '{"topic":"topology.ID.x","seq":SEQ,"journaled":true,"payload":{}}', 7],
])('a journaled event with %s is malformed', async (_, data, id) => {
  const topology = server.add(1);
  const f = follow({ topologies: [topology] });
  await until(() => f.events.length === 1);
  const text = data.replace('ID', topology).replace('SEQ', String(epoch + 2));
  server.live!.write(`event: x\n${id ? `id: ${id}\n` : ''}data: ${text}\n\n`);
  await until(() => f.violations.length === 1);
  expect(f.violations[0]).toMatchObject({ kind: 'malformed', topology_id: topology });
});

test('a frame that is no JSON is told, and the stream is opened anew', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  server.live!.write('event: x\ndata: {"topic"\n\nevent: y\ndata: {"topic"\n\n');
  await until(() => state(f) === 'waiting');
  expect(f.violations).toEqual([{ kind: 'malformed', topology_id: null, expected: null, got: null }]);
  pass(f);
  server.emit(id, 'x');
  await until(() => seqs(f.events).length === 2);
});

test('a raw NOTIFY has no seq, changes no state, and keeps its name', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  await until(() => f.events.length === 1);
  server.live!.notice('mutation.applied', { mutation_id: 'by-hand', version: 99, topology_id: uuid(5) }, id);
  server.live!.notice('notify', 'any text', id);
  server.emit(id, 'x');
  await until(() => f.events.length === 4);
  expect(f.events.slice(1, 3)).toMatchObject([
    { kind: 'raw', type: 'mutation.applied', topology_id: id },
    { kind: 'raw', type: 'notify', payload: 'any text', topology_id: id },
  ]);
  expect(f.stream.getSnapshot().topologies[id]).toMatchObject({ version: 0, seq: epoch + 2 });
  expect(f.violations).toEqual([]);
});

test('snapshots of the state are immutable, and the same until something changes, in each part', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ topologies: [a, b], list: true });
  await until(() => f.events.length === 4);
  const one = f.stream.getSnapshot();
  expect(f.stream.getSnapshot()).toBe(one);
  let calls = 0;
  f.stream.subscribe(() => calls++);
  const copy = structuredClone(one);
  server.emit(a, 'status', { state: 'degraded', reason: null });
  await until(() => calls > 0);
  const two = f.stream.getSnapshot();
  expect(two).not.toBe(one);
  expect(two.topologies[b]).toBe(one.topologies[b]);
  expect(two.list).toBe(one.list);
  expect(two.connection).toBe(one.connection);
  expect(two.topologies[a]).not.toBe(one.topologies[a]);
  expect(one).toEqual(copy);
  server.live!.write(': keepalive\n\n');
  server.live!.notice('notify', 'x', a);
  await until(() => f.events.at(-1)!.kind === 'raw');
  expect(f.stream.getSnapshot()).toBe(two);
  expect(calls).toBe(1);
});

test('the list: all of it at once, the newest row wins, and after a reconnection what is gone is gone', async () => {
  const [a, b] = [server.add(1), server.add(2)];
  const f = follow({ list: true });
  await until(() => f.stream.getSnapshot().list);
  expect(server.requests[0]!.body).toEqual({ topologies: {}, list: true });
  expect(f.stream.getSnapshot().list!.map((row) => row.name)).toEqual(['t1', 't2']);
  const row = { ...server.topologies.get(a)!.row, seq: epoch + 5, status: 'degraded' };
  server.live!.frame('topology', row);
  server.live!.frame('topology', { ...row, seq: epoch + 4, status: 'active' });
  server.live!.frame('removed', { id: b });
  await until(() => f.stream.getSnapshot().list!.length === 1);
  expect(f.stream.getSnapshot().list).toEqual([row]);
  server.topologies.delete(b);
  const c = server.add(3);
  server.live!.cut(); // and the next server is behind: a's row is of seq 1 there
  await until(() => state(f) === 'waiting');
  expect(f.stream.getSnapshot().list).toEqual([row]);
  clock.advance(2000);
  await until(() => f.stream.getSnapshot().list!.length === 2);
  expect(f.stream.getSnapshot().list!.map((r) => [r.id, r.status])).toEqual([[a, 'degraded'], [c, 'active']]);
});

test('a graph is in the state after each event, and is asked for anew only where it is missing', async () => {
  const lan = { id: 'l1', topology_id: uuid(1), name: 'lan-1', subnet: '10.0.0.0/24', is_dmz: false, x: 0, y: 0 };
  const id = server.add(1, { lans: [lan], deckies: [], edges: [] });
  const f = follow({ topologies: [id], graph: true });
  await until(() => f.events.length === 1);
  expect(server.requests[0]!.body.graph).toBe(true);
  expect(f.stream.getSnapshot().topologies[id]!.graph).toEqual({ lans: [lan], deckies: [], edges: [] });
  server.emit(id, 'graph', { lans: [{ ...lan, x: 5 }], before: { lans: [{ id: 'l1', x: 0 }] }, more: true });
  await until(() => f.events.length === 2);
  expect(f.stream.getSnapshot().topologies[id]!.graph!.lans[0]!.x).toBe(0);
  server.live!.cut(); // between two parts of one statement
  await until(() => state(f) === 'waiting');
  clock.advance(2000);
  await until(() => state(f) === 'open');
  server.emit(id, 'graph', { lans: [{ ...lan, id: 'l2' }] });
  await until(() => f.events.length === 3);
  expect(f.stream.getSnapshot().topologies[id]!.graph!.lans.map((l) => [l.id, l.x])).toEqual([['l1', 5], ['l2', 0]]);
  expect(server.requests[1]!.body.topologies).toEqual({ [id]: epoch + 2 });
});

test('an AbortSignal ends everything: the request, for await, and callbacks', async () => {
  const id = server.add(1);
  const controller = new AbortController();
  const f = follow({ topologies: [id], signal: controller.signal });
  await until(() => f.events.length === 1);
  const rest = (async () => { for await (const event of f.stream) expect(event).toBeUndefined(); })();
  controller.abort();
  await rest;
  expect(state(f)).toBe('closed');
  await until(() => server.open.length === 0);
  f.stream.reconnect();
  f.stream.add(server.add(2));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(server.requests).toHaveLength(1);
  expect(clock.waiting).toEqual([]);
});

test('for await gives every event, and breaking out of it leaves the stream open', async () => {
  const id = server.add(1);
  const f = follow({ topologies: [id] });
  const got: string[] = [];
  for await (const event of f.stream) {
    got.push(event.type);
    if (got.length === 1) {
      server.emit(id, 'a');
      server.emit(id, 'b');
    }
    if (got.length === 3) break;
  }
  expect(got).toEqual(['snapshot', 'a', 'b']);
  server.emit(id, 'c');
  await until(() => f.events.length === 4);
});

test('the network’s return is not waited for', async () => {
  const id = server.add(1);
  let online!: () => void;
  server.next.push(problem(503, 'away', { 'Retry-After': '3600' }));
  const addEventListener = (type: string, f: () => void): void => { if (type === 'online') online = f; };
  const f = follow({ topologies: [id], host: clock.host({ addEventListener }) });
  await until(() => state(f) === 'waiting');
  online();
  await until(() => f.events.length === 1);
});

test('events of one’s own widen the union', () => {
  interface Mine { 'decky.service_added': { decky_name: string } }
  const use = (event: StreamEvent<Mine>): void => {
    if (event.kind !== 'event') return;
    if (event.type === 'decky.service_added') expectTypeOf(event.payload).toEqualTypeOf<{ decky_name: string }>();
    if (event.type === 'mutation.applied') expectTypeOf(event.payload.version).toEqualTypeOf<number>();
    // @ts-expect-error there is no such event
    if (event.type === 'nonsense') return;
  };
  expectTypeOf<Parameters<NonNullable<Options<Mine>['onEvent']>>[0]>().toEqualTypeOf<StreamEvent<Mine>>();
  expect(use).toBeTypeOf('function');
});
