import { signal } from '@preact/signals';
import { beforeEach, expect, test, vi } from 'vitest';
import type { Graph, Lan, StreamEvent, TopologyState } from 'topostream';
import { createEdit } from '../src/edit/edit.ts';
import type { Ghost } from '../src/graph/ghost.ts';
import type { Live } from '../src/state/live.ts';
import { Problem, type Rest } from '../src/state/rest.ts';
import { parseRoute, type RouteState } from '../src/state/route.ts';
import { viewOfHead, type View } from '../src/state/view.ts';

type Listener = (event: StreamEvent) => void;
type Id = 'a' | 'b';
interface Mutation { readonly id: string; readonly requested_by: string; state: string }
interface Event { readonly type: string; readonly seq: number; readonly ts: string; readonly payload: object }

const graph: Graph = {
  lans: [{ topology_id: 'a', id: 'L', name: 'office', subnet: '10.0.0.0/24', is_dmz: false, x: 0, y: 0 }],
  deckies: [], edges: [],
};

/** The rules of the server that editing counts on, for two topologies. */
function twoTopologies() {
  const make = () => ({ version: 0, lans: [] as Lan[], journal: [] as Event[], mutations: [] as Mutation[] });
  const topologies = { a: make(), b: make() };
  let made = 0;
  const seqOf = (id: Id): number => topologies[id].journal.length;
  const waiting = (id: Id): number => topologies[id].mutations.filter(({ state }) => state === 'pending').length;
  const record = (id: Id, type: string, payload: object): void => {
    topologies[id].journal.push({ type, seq: seqOf(id) + 1, ts: '2026-11-23T19:30:00.123456Z', payload });
  };
  const enqueue = (id: Id, by: string): Mutation => {
    const mutation = { id: `m${++made}`, requested_by: by, state: 'pending' };
    topologies[id].mutations.push(mutation);
    record(id, 'mutation.enqueued', { mutation_id: mutation.id, op: 'add_lan', payload: {} });
    return mutation;
  };
  /** Does what waits: each mutation makes a LAN of its own name. */
  const work = (id: Id): void => {
    for (const mutation of topologies[id].mutations.filter(({ state }) => state === 'pending')) {
      mutation.state = 'applied';
      const lan = { ...graph.lans[0]!, id: mutation.id, name: mutation.id };
      topologies[id].lans.push(lan);
      record(id, 'mutation.applied', {
        mutation_id: mutation.id, op: 'add_lan', version: ++topologies[id].version, result: { lans: [lan] },
      });
    }
  };
  const send = async (method: string, path: string, body?: unknown): Promise<unknown> => {
    const [, , name, what] = path.split(/[/?]/);
    const id = name as Id;
    const { mutations, journal, version } = topologies[id];
    const query = new URLSearchParams(path.split('?')[1]);
    if (what === 'journal') {
      const after = Number(query.get('after'));
      return { first: 1, head: seqOf(id), events: journal.slice(after, after + Number(query.get('limit'))) };
    }
    if (method === 'GET') return mutations.slice(-200).reverse();
    const { expected_version: expected } = body as { expected_version?: number };
    const is = version + waiting(id);
    if (expected !== undefined && expected !== is) {
      throw new Problem(409, 'Conflict', `expected_version is ${expected}, but the topology is at ${is}`);
    }
    return { mutation_id: enqueue(id, 'me').id };
  };
  return { topologies, seqOf, waiting, enqueue, work, rest: { send } as unknown as Rest };
}

/** A page that edits, before a server. */
function setUp(server = twoTopologies()) {
  let listener: Listener = () => undefined;
  const open = signal<TopologyState | null>(null);
  const current = signal(parseRoute(''));
  const past = signal<View | null>(null);
  const shown = signal<View | null>(null);
  const edit = createEdit(window as Window & typeof globalThis, {
    route: { current } as unknown as RouteState, rest: server.rest, past, shown,
    live: { open, onEvent: (one: Listener) => { listener = one; } } as unknown as Live,
    ghosts: signal<readonly Ghost[]>([]), editable: signal<true | string>(true),
  });
  let told = 0; // of the open topology
  const openId = (): Id => open.peek()!.id as Id;
  const show = (id: Id): void => {
    told = server.seqOf(id);
    const { version, lans } = server.topologies[id];
    open.value = {
      id, part: 'live', seq: told, status: 'active', version, graph: { ...graph, lans: [...graph.lans, ...lans] },
      in_flight: [], in_flight_total: server.waiting(id),
    } as unknown as TopologyState;
    shown.value = viewOfHead(open.peek());
  };
  /** Opens a topology, or reconnects: a snapshot takes the place of events. */
  const snapshot = (id: Id = openId()): void => {
    current.value = { ...current.peek(), topology: id };
    show(id);
    listener({ kind: 'snapshot', type: 'snapshot', topology_id: id, seq: told } as StreamEvent);
  };
  /** Receives what is new of the open topology. */
  const receive = (): void => {
    const id = openId();
    const events = server.topologies[id].journal.slice(told);
    show(id);
    for (const event of events) listener({ kind: 'event', topology_id: id, ...event } as unknown as StreamEvent);
  };
  const move = async (x: number): Promise<void> => {
    await edit.move({ kind: 'lan', key: 'L' }, { x, y: 0 });
    server.work(openId());
  };
  const stage = (name: string): void => {
    expect(edit.stage({ op: 'add_lan', payload: { name } })).toBe(true);
  };
  const others = (count: number): void => {
    for (let i = 0; i < count; i++) server.enqueue(openId(), 'ada');
    server.work(openId());
  };
  const state = (): string => edit.sending.peek().state;
  return { server, edit, snapshot, receive, move, stage, others, state };
}

beforeEach(() => sessionStorage.clear());

test('what one has done in another topology counts for none of the first', async () => {
  const { edit, snapshot, receive, move, stage, others, state } = setUp();
  snapshot('a');
  others(100);
  receive();
  snapshot('b');
  stage('lab');
  snapshot('a');
  await move(10); // its seq is far above what is staged in b began at
  receive();
  snapshot('b');
  await edit.apply();
  expect(state()).toBe('waiting');
});

test('what one moves while something is staged is no conflict, whoever hears of it first', async () => {
  const { edit, snapshot, receive, move, stage, state } = setUp();
  snapshot('a');
  stage('lab');
  await move(10);
  receive();
  await move(20); // and the stream has not told of it
  await edit.apply();
  expect(state()).toBe('waiting');
});

test('a move of long ago is not counted, however much others have done since', async () => {
  const { edit, snapshot, receive, move, stage, others, state } = setUp();
  snapshot('a');
  await move(10);
  receive();
  others(2001);
  receive();
  stage('lab');
  await edit.apply();
  expect(state()).toBe('waiting');
});

test('a move that only a snapshot has told of is not counted for what is staged after that', async () => {
  const { edit, snapshot, move, stage, state } = setUp();
  snapshot('a');
  await move(10);
  snapshot();
  stage('lab');
  await edit.apply();
  expect(state()).toBe('waiting');
});

test('after a reload one’s own moves still count for what was staged before them, and for nothing after', async () => {
  const before = setUp();
  before.snapshot('a');
  before.stage('lab');
  await before.move(10);
  const { edit, snapshot, stage, state, receive, server } = setUp(before.server);
  snapshot('a');
  await edit.apply();
  expect(state()).toBe('waiting');
  server.work('a');
  receive();
  expect(state()).toBe('applied');
  stage('more');
  await edit.apply();
  expect(state()).toBe('waiting');
});

test('others’ edits are a conflict that names them, and that rebasing cures', async () => {
  const { edit, snapshot, receive, stage, others, state } = setUp();
  snapshot('a');
  stage('lab');
  others(1);
  receive();
  await edit.apply();
  expect(edit.sending.peek()).toMatchObject({ state: 'conflict', others: [{ by: 'ada', lines: [{ sign: '+' }] }] });
  edit.rebase();
  await edit.apply();
  expect(state()).toBe('waiting');
});

test('what others have done is told without a hole, and what nobody would read is counted', async () => {
  const before = setUp();
  before.snapshot('a');
  before.stage('lab');
  before.others(600);
  const { edit, snapshot, receive, others, server } = setUp(before.server); // the tab is loaded anew
  snapshot('a');
  others(50);
  receive();
  await edit.apply();
  const told = edit.sending.peek();
  const done = server.topologies.a.journal.filter(({ type }) => type === 'mutation.applied').map(({ seq }) => seq);
  expect(told.state === 'conflict' && told.others.map(({ seq }) => seq)).toEqual(done);
  expect(told).toMatchObject({ more: 0 });
  others(400);
  receive();
  await edit.apply();
  expect(edit.sending.peek()).toMatchObject({ state: 'conflict', more: 100 });
});

test('others’ edits are told of the topology that they were made in, also if another is open by then', async () => {
  const { edit, snapshot, receive, stage, others, server } = setUp();
  snapshot('b');
  others(100);
  receive();
  snapshot('a');
  stage('lab');
  others(1);
  receive();
  const applying = edit.apply();
  snapshot('b'); // its seq is far above
  await applying;
  snapshot('a');
  const told = { state: 'conflict', others: [{ by: 'ada', lines: [{ sign: '+' }] }], more: 0 };
  expect(edit.sending.peek()).toMatchObject(told);
  server.enqueue('a', 'bob');
  receive();
  const waits = edit.apply();
  snapshot('b');
  await waits;
  snapshot('a');
  expect(edit.sending.peek()).toMatchObject({
    others: [{ by: 'ada' }, { by: 'bob', lines: [{ text: 'add_lan is being applied' }] }], more: 0,
  });
  others(600);
  receive();
  await edit.apply();
  const all = edit.sending.peek();
  const again = edit.apply();
  snapshot('b'); // its seq is far below, and what this page has heard is not all
  await again;
  snapshot('a');
  expect(server.seqOf('a')).toBeGreaterThan(server.seqOf('b'));
  expect(edit.sending.peek()).toEqual(all);
  expect(all).toMatchObject({ state: 'conflict', more: 0 });
});

test('what was applied unheard is told with the version of its own topology, whatever is open by then', async () => {
  const { edit, snapshot, receive, stage, others, state, server } = setUp();
  snapshot('b');
  others(5);
  receive();
  snapshot('a');
  stage('lab');
  await edit.apply();
  server.work('a');
  const asked = vi.spyOn(server.rest, 'send');
  snapshot('a'); // it asks what became of it
  snapshot('b');
  await asked.mock.results[0]!.value;
  await Promise.resolve(); // and it has heard
  snapshot('a');
  await vi.waitFor(() => expect(state()).toBe('applied'));
  expect(edit.sending.peek()).toMatchObject({ version: 1 });
});

test('whose answer is lost asks again, and finds what was done to be their own', async () => {
  const { edit, snapshot, receive, stage, state, server } = setUp();
  const answers = new Map<string, Promise<unknown>>(); // by Idempotency-Key
  let lost = false;
  const { send } = server.rest;
  vi.spyOn(server.rest, 'send').mockImplementation((async (...request: Parameters<Rest['send']>) => {
    const key = request[3]?.['Idempotency-Key'];
    if (key === undefined) return send(...request);
    const answer = answers.get(key) ?? send(...request);
    answers.set(key, answer);
    if (lost) return answer;
    lost = true;
    throw new Problem(0, 'no answer', 'the line was cut');
  }) as Rest['send']);
  snapshot('a');
  stage('m1'); // the name of what the server makes
  await edit.apply();
  expect(edit.sending.peek()).toEqual({ state: 'unanswered', reason: 'the line was cut' });
  server.work('a');
  receive(); // the LAN is there, and nothing says whose it is
  await edit.apply();
  expect(state()).toBe('applied');
  expect([edit.staged.peek().ops, server.topologies.a.mutations.length]).toEqual([[], 1]);
});
