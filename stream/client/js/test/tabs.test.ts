import { BroadcastChannel as RealChannel } from 'node:worker_threads';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { TopologyStream, type Options, type StreamEvent, type Violation } from '../src/tabs.ts';
import { Clock, epoch, FakeServer, problem, until } from './server.ts';

// Node 20 has no Web Locks: these are as much of them as the client asks for.
interface Holder { take: () => void; lose: (reason: Error) => void }
class Locks {
  #held = new Map<string, Holder>();
  #queues = new Map<string, Holder[]>();
  request(name: string, options: unknown, callback = options as () => unknown): Promise<unknown> {
    const steal = (options as { steal?: boolean }).steal === true;
    return new Promise((resolve, reject) => {
      const holder: Holder = {
        take: () => {
          this.#held.set(name, holder);
          void Promise.resolve(callback()).then((value) => {
            if (this.#held.get(name) !== holder) return;
            this.#held.delete(name);
            resolve(value);
            this.#queues.get(name)?.shift()?.take();
          });
        },
        lose: reject,
      };
      const held = this.#held.get(name);
      if (!held || steal) {
        queueMicrotask(() => {
          if (steal) this.#held.get(name)?.lose(new Error('AbortError'));
          else if (this.#held.has(name)) return void this.#queue(name, holder);
          holder.take();
        });
      } else this.#queue(name, holder);
    });
  }
  #queue(name: string, holder: Holder): void {
    this.#queues.set(name, [...(this.#queues.get(name) ?? []), holder]);
  }
}

/** A tab: its clock stands still while it is frozen, and its messages wait, unless they come all the same. */
class Tab {
  readonly clock = new Clock();
  readonly events: StreamEvent[] = [];
  readonly violations: Violation[] = [];
  readonly states: string[] = [];
  readonly stream: TopologyStream;
  #frozen: (() => void)[] | undefined;
  #hears = true;

  constructor(options: Options, secure = true) {
    const deliver = (f: () => void): void => void (this.#hears ? f() : this.#frozen!.push(f));
    class Channel {
      readonly #channel: RealChannel;
      constructor(name: string) { this.#channel = new RealChannel(name); }
      set onmessage(listener: (event: unknown) => void) {
        this.#channel.onmessage = (event: unknown) => deliver(() => listener(event));
      }
      postMessage(message: unknown): void { this.#channel.postMessage(message); }
      close(): void { this.#channel.close(); }
    }
    this.stream = new TopologyStream({
      url: server.url, share: 'ada', onEvent: (e) => this.events.push(e),
      onViolation: (v) => this.violations.push(v), onConnection: (c) => this.states.push(c.state),
      host: this.clock.host({
        BroadcastChannel: Channel as unknown as typeof BroadcastChannel,
        navigator: secure ? { locks: locks as unknown as LockManager } : {},
        Math: { random: () => ++tabCount / 1000 },
      }),
      ...options,
    });
    tabs.push(this);
  }

  get role(): string | undefined { return this.stream.getSnapshot().tabs?.role; }
  get frozen(): boolean { return !!this.#frozen; }
  freeze(hears = false): void {
    this.#frozen = [];
    this.#hears = hears;
  }
  thaw(): void {
    const waiting = this.#frozen ?? [];
    this.#frozen = undefined;
    this.#hears = true;
    for (const f of waiting) f();
  }
  seqs(id?: string): (number | string)[] {
    return this.events.flatMap((e) => (e.kind === 'event' || e.kind === 'snapshot') && (!id || e.topology_id === id)
      ? [e.kind === 'snapshot' ? `snapshot ${e.seq - epoch}` : e.seq - epoch] : []);
  }
}

let server: FakeServer;
let locks: Locks;
let tabCount = 0;
const tabs: Tab[] = [];

beforeEach(async () => {
  server = await FakeServer.start();
  locks = new Locks();
});

afterEach(async () => {
  for (const tab of tabs.splice(0)) {
    tab.thaw();
    tab.stream.close();
  }
  await server.stop();
});

/** Waits as the test's clock passes: 10 ms for each look. */
async function soon(what: () => unknown): Promise<void> {
  await until(() => {
    if (what()) return true;
    for (const tab of tabs) if (!tab.frozen) tab.clock.advance(10);
    return false;
  });
}

test('tabs with one key have one stream; a newcomer gets the leader’s state at N, then N + 1', async () => {
  const id = server.add(1);
  const a = new Tab({ topologies: [id] });
  await soon(() => a.events.length === 1);
  server.emit(id, 'x');
  server.emit(id, 'status', { state: 'degraded', reason: 'z' });
  await soon(() => a.events.length === 3);
  const b = new Tab({ topologies: [id] });
  await soon(() => b.events.length === 1);
  server.emit(id, 'x');
  await soon(() => a.events.length === 4 && b.events.length === 2);
  expect(a.seqs()).toEqual(['snapshot 1', 2, 3, 4]);
  expect(b.seqs()).toEqual(['snapshot 3', 4]);
  const { broken, ...state } = b.stream.getSnapshot().topologies[id]!;
  expect(a.stream.getSnapshot().topologies[id]).toEqual({ ...state, broken: null });
  expect(broken).toBeNull();
  expect(server.requests.length).toBe(1);
  expect([a.role, b.role]).toEqual(['leads', 'follows']);
  expect(a.stream.getSnapshot()).toBe(a.stream.getSnapshot());
});

test('another key is another stream', async () => {
  const id = server.add(1);
  const a = new Tab({ topologies: [id] });
  const b = new Tab({ topologies: [id], share: 'eve' });
  await soon(() => a.events.length && b.events.length);
  expect([a.role, b.role]).toEqual(['leads', 'leads']);
  expect(server.requests.length).toBe(2);
});

test('the union grows by topologies, graph and list: the new stream opens before the old one closes', async () => {
  const [one, two] = [server.add(1, { lans: [{ id: 'l' }] }), server.add(2)];
  const a = new Tab({ topologies: [one] });
  await soon(() => a.events.length === 1);
  const open: number[] = [];
  const look = (): boolean => {
    open.push(server.open.length);
    return false;
  };
  server.next.push(look);
  const b = new Tab({ topologies: [two] });
  await soon(() => b.events.length === 1);
  server.emit(one, 'x');
  server.next.push(look);
  const c = new Tab({ topologies: [one], graph: true, list: true });
  await soon(() => c.stream.getSnapshot().topologies[one]?.graph && c.stream.getSnapshot().list);
  server.emit(one, 'x');
  server.emit(two, 'x');
  await soon(() => a.seqs().length === 3 && b.seqs().length === 2 && c.seqs().length === 2);
  expect(a.seqs()).toEqual(['snapshot 1', 2, 3]);
  expect(b.seqs()).toEqual(['snapshot 1', 2]);
  expect(c.seqs()).toEqual(['snapshot 2', 3]);
  expect(a.stream.getSnapshot().topologies[one]!.graph).toBeNull();
  expect(a.stream.getSnapshot().list).toBeNull();
  expect(c.stream.getSnapshot().topologies[one]!.graph!.lans).toEqual([{ id: 'l' }]);
  expect(c.stream.getSnapshot().list!.length).toBe(2);
  expect(open).toEqual([1, 1]);
  await soon(() => server.open.length === 1);
  expect(tabs.flatMap((tab) => tab.violations)).toEqual([]);
});

test('when the leader closes another goes on from what it has, without a snapshot', async () => {
  const id = server.add(1);
  const [a, b, c] = [new Tab({ topologies: [id] }), new Tab({ topologies: [id] }), new Tab({ topologies: [id] })];
  await soon(() => tabs.every((tab) => tab.events.length === 1));
  server.emit(id, 'x');
  await soon(() => tabs.every((tab) => tab.events.length === 2));
  const leader = tabs.find((tab) => tab.role === 'leads')!;
  leader.stream.close();
  server.emit(id, 'x');
  const rest = [a, b, c].filter((tab) => tab !== leader);
  await soon(() => rest.every((tab) => tab.events.length === 3));
  for (const tab of rest) expect(tab.seqs()).toEqual(['snapshot 1', 2, 3]);
  expect(server.requests.at(-1)!.body.topologies).toEqual({ [id]: epoch + 2 });
  expect(tabs.flatMap((tab) => tab.violations)).toEqual([]);
});

test('a leader that is frozen is deposed after five seconds, and what it says then is dropped', async () => {
  const id = server.add(1);
  const a = new Tab({ topologies: [id] });
  await soon(() => a.role === 'leads' && a.events.length === 1);
  const b = new Tab({ topologies: [id] });
  await soon(() => b.events.length === 1);
  a.freeze();
  b.clock.advance(4000);
  await until(() => true);
  expect(b.role).toBe('follows');
  server.emit(id, 'x');
  await soon(() => b.role === 'leads' && b.events.length >= 2);
  server.emit(id, 'x');
  await soon(() => b.seqs().includes(3));
  a.thaw();
  await soon(() => a.role === 'follows' && a.seqs().includes(3));
  server.emit(id, 'x');
  await soon(() => a.seqs().includes(4) && b.seqs().includes(4));
  expect(b.seqs()).toEqual(['snapshot 1', 2, 3, 4]);
  expect(a.seqs()).toEqual(['snapshot 1', 2, 3, 4]);
  expect(tabs.flatMap((tab) => tab.violations)).toEqual([]);
  await soon(() => server.open.length === 1);
});

test('a leader that is frozen is deposed though it still hears, and passes on what comes', async () => {
  const id = server.add(1);
  const a = new Tab({ topologies: [id] });
  await soon(() => a.role === 'leads' && a.events.length === 1);
  const b = new Tab({ topologies: [id] });
  await soon(() => b.events.length === 1);
  a.freeze(true); // as Chromium does it: no timer runs, but messages and bytes come
  let head = 1;
  await soon(() => {
    if (head === 1 || b.seqs().at(-1) === head) head = server.emit(id, 'x') - epoch;
    return b.role === 'leads';
  });
  await soon(() => a.role === 'follows');
  a.thaw();
  head = server.emit(id, 'x') - epoch;
  await soon(() => tabs.every((tab) => tab.seqs().at(-1) === head));
  for (const tab of [a, b]) {
    expect(tab.seqs()).toEqual(['snapshot 1', ...Array.from({ length: head - 1 }, (_, i) => i + 2)]);
  }
  expect(tabs.flatMap((tab) => tab.violations)).toEqual([]);
});

test('a leader whose beats are late, because its page is hidden, answers and stays', async () => {
  const id = server.add(1);
  const a = new Tab({ topologies: [id] });
  await soon(() => a.role === 'leads' && a.events.length === 1);
  const b = new Tab({ topologies: [id] });
  await soon(() => b.events.length === 1);
  for (let s = 0; s < 20; s++) {
    b.clock.advance(1000);
    await new Promise((resolve) => setTimeout(resolve, 5));
    a.clock.advance(30); // what a message sets runs; the next beat is far
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect([a.role, b.role]).toEqual(['leads', 'follows']);
});

test('the leader’s connection is that of all, and it goes on from the same place', async () => {
  const id = server.add(1);
  const a = new Tab({ topologies: [id] });
  const b = new Tab({ topologies: [id] });
  await soon(() => a.events.length && b.events.length);
  server.next.push(problem(503, 'the database is away', { 'Retry-After': '3' }));
  server.live!.cut();
  await soon(() => tabs.every((tab) => {
    const { connection } = tab.stream.getSnapshot();
    return connection.state === 'waiting' && connection.reason === 'the database is away';
  }));
  server.emit(id, 'x');
  await soon(() => a.events.length === 2 && b.events.length === 2);
  expect([a.seqs(), b.seqs()]).toEqual([['snapshot 1', 2], ['snapshot 1', 2]]);
  for (const tab of tabs) expect(tab.states.at(-1)).toBe('open');
  expect(new Set(b.states)).toEqual(new Set(['connecting', 'open', 'waiting']));
});

test('each tab finds a hole, a double and a wrong order by itself', async () => {
  const id = server.add(1);
  const a = new Tab({ topologies: [id] });
  const b = new Tab({ topologies: [id] });
  await soon(() => a.events.length && b.events.length);
  const x = (seq: number): void => server.live!.event(id, { seq: epoch + seq, type: 'x', payload: null });
  x(2);
  x(2);
  x(1);
  x(4);
  const expected = ['double', 'order', 'hole'];
  for (const tab of [a, b]) {
    await soon(() => tab.violations.length === 3);
    expect(tab.violations.map(({ kind }) => kind)).toEqual(expected);
  }
  for (let i = 0; i < 5; i++) server.topologies.get(id)!.events.push({ seq: epoch + 2 + i, type: 'x', payload: null });
  await soon(() => tabs.every((tab) => tab.stream.getSnapshot().topologies[id]!.seq === epoch + 6));
});

test('401 for good is every tab’s state, and nothing is asked any more', async () => {
  const id = server.add(1);
  for (let i = 0; i < 20; i++) server.next.push(problem(401, 'the token has expired'));
  const rejected: (string | undefined)[] = [];
  const getToken = (old?: string): string => {
    rejected.push(old);
    return 'old';
  };
  const [a, b] = [new Tab({ topologies: [id], getToken }), new Tab({ topologies: [id], getToken })];
  await soon(() => tabs.every((tab) => tab.stream.getSnapshot().connection.state === 'refused'));
  expect(a.stream.getSnapshot().connection).toEqual(
    { state: 'refused', status: 401, reason: 'the token has expired' });
  const asked = server.requests.length;
  expect(asked).toBeLessThanOrEqual(4);
  for (let i = 0; i < 100; i++) await soon(() => true);
  for (const tab of tabs) tab.clock.advance(60_000);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(server.requests.length).toBe(asked);
  server.next.length = 0;
  b.stream.reconnect();
  await soon(() => b.events.length === 1);
});

test('a topology that one tab may not see is refused to it alone', async () => {
  const [good, bad] = [server.add(1), server.add(2)];
  const a = new Tab({ topologies: [good] });
  await soon(() => a.events.length === 1);
  const refuse = (request: { body: { topologies: object } }, response: never): boolean => {
    if (!(bad in request.body.topologies)) return false;
    problem(403, 'not yours')(request as never, response);
    return true;
  };
  for (let i = 0; i < 20; i++) server.next.push(refuse as never);
  const b = new Tab({ topologies: [bad] });
  await soon(() => b.stream.getSnapshot().connection.state === 'refused');
  server.emit(good, 'x');
  await soon(() => a.seqs().length === 2);
  a.stream.add(bad);
  await soon(() => a.stream.getSnapshot().topologies[bad]!.part === 'refused');
  server.emit(good, 'x');
  await soon(() => a.seqs().length === 3);
  expect(a.stream.getSnapshot().connection.state).toBe('open');
});

test('what is unavailable, deleted or raw is told to all', async () => {
  const [one, two] = [server.add(1), server.add(2)];
  const a = new Tab({ topologies: [one, two] });
  const b = new Tab({ topologies: [one, two] });
  await soon(() => a.events.length === 2 && b.events.length === 2);
  server.live!.notice('notify', 'text', one);
  server.live!.notice('deleted', {}, two);
  await soon(() => tabs.every((tab) => tab.stream.getSnapshot().topologies[two]!.part === 'deleted'));
  for (const tab of tabs) expect(tab.events.filter((e) => e.kind === 'raw').map((e) => e.payload)).toEqual(['text']);
  const c = new Tab({ topologies: [two] });
  await soon(() => c.stream.getSnapshot().connection.state === 'ended');
});

test('without locks each has a stream, and the fifth says that it is one too many', async () => {
  const id = server.add(1);
  for (let i = 0; i < 5; i++) new Tab({ topologies: [id] }, false);
  await soon(() => tabs.every((tab) => tab.events.length === 1 && tab.stream.getSnapshot().tabs?.count === 5));
  for (const tab of tabs) {
    expect(tab.stream.getSnapshot().tabs).toMatchObject({ role: 'alone', problem: expect.stringContaining('HTTP/2') });
  }
  expect(server.requests.length).toBe(5);
  tabs[0]!.stream.close();
  await soon(() => tabs.slice(1).every((tab) => tab.stream.getSnapshot().tabs?.count === 4));
  expect(tabs[1]!.stream.getSnapshot().tabs).toEqual({ role: 'alone', count: 4, problem: null });
});

test('nothing is shared, locked or sent before somebody listens, or without a key', async () => {
  const id = server.add(1);
  const none = new Proxy({}, { get: () => { throw new Error('a lock'); } }) as LockManager;
  const host = new Clock().host({ navigator: { locks: none } });
  new TopologyStream({ url: server.url, share: 'ada', topologies: [id], host });
  const { share, ...alone } = { share: undefined };
  void share;
  const stream = new TopologyStream({ url: server.url, topologies: [id], host, ...alone });
  const off = stream.subscribe(() => {});
  await until(() => stream.getSnapshot().topologies[id]!.seq);
  expect(stream.getSnapshot().tabs).toBeUndefined();
  off();
  stream.close();
});
