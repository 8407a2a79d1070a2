// The tab that leads: it follows the union of what the tabs want, and answers them as the server would.
import { hostWith, type Host } from './host.ts';
import { TopologyStream, type Options } from './stream.ts';
import type { Connection, StreamEvent, StreamState, TopologyState } from './types.ts';

/** What a client asks for, as the server has it. */
export interface Body {
  readonly topologies: Readonly<Record<string, number | null>>;
  readonly graph?: boolean;
  readonly list?: boolean;
}

/** A frame of a stream. `seq` is there if it is a snapshot or the event after the one before. */
export interface Frame {
  readonly event: string;
  readonly id: string | null;
  readonly seq?: number | undefined;
  readonly data: unknown;
}

/** The newest events of a topology: those up to the head. */
export interface Feed {
  _head: number;
  readonly _ring: Frame[];
}

// Names of messages are never shortened: a tab may have loaded another build.
interface Of { readonly to: 'tabs'; readonly generation: number; readonly key?: string }
export type Told = Of & (
  | { readonly type: 'beat'; readonly connection: Connection }
  | { readonly type: 'frame'; readonly frame: Frame }
  | { readonly type: 'start'; readonly ids: string[]; readonly frames: Frame[]; readonly list: boolean;
      readonly open: boolean }
  | { readonly type: 'refuse'; readonly status: number; readonly reason: string });
export type Asked = { readonly to: 'leader' } & (
  | { readonly type: 'want'; readonly key: string; readonly tab: string; readonly body: Body }
  | { readonly type: 'bye'; readonly key: string }
  | { readonly type: 'again' | 'ask' });
export type Message = Told | Asked | { readonly to: 'all'; readonly type: 'who' | 'here'; readonly tab: string };

export interface Leader {
  readonly _generation: number;
  readonly _hear: (message: Asked) => void;
  readonly _beat: () => void;
  readonly _stop: () => void;
}

/** What the streams of a leader have of its tab's options. */
export type StreamOptions = Omit<Options, 'onEvent' | 'onConnection' | 'onViolation'>;

/** A stream that a tab has asked for. */
interface Request {
  readonly _tab: string;
  readonly _body: Body;
  readonly _owed: Set<string>; // topologies of which nothing was sent
  readonly _told: Set<string>; // those of them that are said to be unavailable
  _list: boolean; // the list is owed
  _open?: boolean;
  _beats: number; // since it was made
}

/** How many beats a tab waits for all that it has asked for, before it gets what there is. */
const patience = 4;

export function lead(
  host: Host, options: StreamOptions, generation: number, feeds: Map<string, Feed>, getState: () => StreamState,
  send: (message: Message) => void, watch: (tab: string, died: () => void) => void,
): Leader {
  const requests = new Map<string, Request>();
  const watched = new Set<string>();
  let up: TopologyStream | undefined;
  let old: TopologyStream | undefined; // until up has caught up with it
  let graph = false;
  let list = false;
  let timer: unknown;
  let refusedAt = -Infinity;
  let stopped = false;

  const of = { to: 'tabs', generation } as const;
  const headOf = (id: string): number => feeds.get(id)?._head ?? -1;
  const connectionOf = (): Connection => (old ?? up)?.getSnapshot().connection ?? { state: 'connecting' };
  const beat = (): void => send({ ...of, type: 'beat', connection: connectionOf() });
  const tell = (frame: Frame): void => send({ ...of, type: 'frame', frame });

  const snapshotOf = ({ id, graph, ...rest }: TopologyState): Frame => {
    const { status, reason, version, seq, in_flight, in_flight_total } = rest;
    const data = { topology_id: id, status, reason, version, seq, in_flight, in_flight_total, ...graph };
    return { event: 'snapshot', id, seq: seq!, data };
  };

  const noticeOf = (id: string, event: string, reason?: string | null): Frame =>
    ({ event, id, data: { topology_id: id, payload: { reason } } });

  const listOf = (): Frame =>
    ({ event: 'list', id: null, data: { data: up!.getSnapshot().list, more: false } });

  // ---------------------------------------------------------- what the server sends

  const take = (stream: TopologyStream, event: StreamEvent): void => {
    const { kind, type } = event;
    if (kind === 'list') {
      if (stream !== up) return;
      if (type !== 'list') tell({ event: type, id: null, data: event.payload });
      else if (!event.payload.more) tell(listOf());
      return;
    }
    const { topology_id: id } = event;
    if (kind === 'notice') {
      if (id && stream === up) tell(noticeOf(id, type, event.payload.reason));
      return;
    }
    const { payload } = event;
    if (kind === 'raw') {
      if (stream === (old ?? up)) tell({ event: type, id, data: { topology_id: id, ts: event.ts, payload } });
      return;
    }
    const { seq } = event;
    const head = headOf(id!);
    if (kind === 'snapshot') {
      if (seq > head && !old) tell({ event: type, id, seq, data: payload });
    } else if (seq === head + 1) {
      tell({ event: type, id, seq, data: { topology_id: id, ts: event.ts, seq, journaled: true, payload } });
    }
  };

  /** A stream of all that the tabs want. */
  const open = (topologies: Iterable<string>): TopologyStream => {
    const { signal, topologies: _, ...rest } = options;
    const fetch = async (input: string | URL | globalThis.Request, init?: RequestInit): Promise<Response> => {
      const body = JSON.parse(init!.body as string) as { topologies: Record<string, number | null> };
      const known = stream.getSnapshot().topologies;
      let seeds = '';
      for (const id of Object.keys(body.topologies)) {
        const state = getState().topologies[id];
        if (known[id]?.seq !== null || !state?.seq || state.part !== 'live' || state.graph_pending[0]) continue;
        if (graphOf && !state.graph) continue;
        body.topologies[id] = state.seq;
        const { event, data } = snapshotOf(state);
        seeds += `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;
      }
      const response = await host.fetch(input, { ...init, body: JSON.stringify(body) });
      if (!seeds || response.status !== 200) return response;
      // It resumes from what this tab has, so the stream is to begin with that.
      const prefix = new TransformStream<Uint8Array, Uint8Array>({
        start: (controller) => controller.enqueue(new TextEncoder().encode(seeds)),
      });
      return new Response(response.body!.pipeThrough(prefix), { headers: response.headers });
    };
    const graphOf = graph;
    const stream = new TopologyStream({ ...rest, topologies, graph, list, host: hostWith(host, fetch) });
    const ours = (): boolean => !stopped && (stream === up || stream === old);
    stream.on('violation', ({ kind, topology_id: id, got: seq }) => {
      if (!ours()) return;
      // Each tab is shown the number, and finds the same. After `back` comes the snapshot.
      if (kind === 'back') feeds.delete(id!);
      else tell({ event: kind, id, data: id ? { topology_id: id, seq, journaled: true } : undefined });
    });
    stream.on('event', (event) => {
      if (ours()) take(stream, event);
    });
    stream.on('connection', (connection) => {
      if (stopped || stream !== up) return;
      beat();
      if (connection.state !== 'refused') return;
      refusedAt = host.performance.now();
      for (const key of requests.keys()) refuse(key);
    });
    stream.on('change', () => {
      if (ours()) settle();
    });
    return stream;
  };

  // ---------------------------------------------------------- what the tabs get

  const refuse = (key: string): void => {
    requests.delete(key);
    const { connection } = up!.getSnapshot();
    const { status, reason } = connection.state === 'refused' ? connection : { status: 403, reason: '' };
    send({ ...of, type: 'refuse', key, status, reason });
    later();
  };

  /** What begins a topology for a request; nothing: not yet. */
  const startOf = ({ _body: body, _told: told }: Request, id: string): Frame[] | undefined => {
    const from = body.topologies[id]!;
    const feed = feeds.get(id);
    const state = up?.getSnapshot().topologies[id];
    if (from !== null && feed && from >= feed._head - feed._ring.length) {
      return feed._ring.filter(({ seq }) => seq! > from);
    }
    if (!state) return undefined;
    const { part, seq, problem } = state;
    if (part === 'deleted') return [noticeOf(id, part)];
    if (!seq || part === 'waiting' || seq < headOf(id) || state.graph_pending[0] || body.graph && !state.graph) {
      if (part === 'unavailable' && !told.has(id)) {
        told.add(id);
        tell(noticeOf(id, part, problem));
      }
      return undefined;
    }
    return seq > headOf(id) ? undefined : [snapshotOf(state)];
  };

  const settle = (): void => {
    const now = up?.getSnapshot();
    if (!now || stopped) return;
    if (old) {
      const parts = Object.values(now.topologies);
      const behind = ({ id, seq }: TopologyState): boolean => seq! > headOf(id);
      const caughtUp = (list ? now.list : true) && parts.every((part) => part.part !== 'waiting' && !behind(part));
      if (caughtUp || now.connection.state === 'open' && old.getSnapshot().connection.state !== 'open') {
        old.close();
        old = undefined;
        for (const part of parts) if (behind(part)) tell(snapshotOf(part));
      }
    }
    for (const [key, request] of requests) {
      const ids: string[] = [];
      const frames: Frame[] = [];
      if ([...request._owed].some((id) => now.topologies[id]?.part === 'refused')) {
        refuse(key);
        continue;
      }
      for (const id of request._owed) {
        const start = startOf(request, id);
        if (!start) continue;
        frames.push(...start);
        ids.push(id);
        request._owed.delete(id);
      }
      const begins = request._list && !!now.list && list;
      if (begins) {
        frames.push(listOf());
        request._list = false;
      }
      const opens = !request._open
        && (!request._owed.size && !request._list || request._beats >= patience);
      request._open ||= opens;
      if (ids[0] || begins || opens) send({ ...of, type: 'start', key, ids, frames, list: begins, open: opens });
    }
  };

  /** What all want together. */
  const unite = (): void => {
    timer = undefined;
    const all = [...requests.values()];
    const ids = new Set(all.flatMap(({ _body }) => Object.keys(_body.topologies)));
    const more = all.some(({ _body }) => _body.graph && !graph || _body.list && !list);
    if (!up || more) {
      graph ||= all.some(({ _body }) => _body.graph);
      list ||= all.some(({ _body }) => _body.list);
      old?.close();
      old = up;
      up = open(ids);
    } else {
      for (const id of Object.keys(up.getSnapshot().topologies)) {
        if (ids.has(id)) continue;
        up.remove(id);
        old?.remove(id);
        feeds.delete(id);
      }
      for (const id of ids) up.add(id);
      if (all[0] && up.getSnapshot().connection.state === 'refused') up.reconnect();
    }
    settle();
  };

  /** The tabs of one moment ask together. */
  const later = (): void => {
    if (!stopped) timer ??= host.setTimeout(unite, 20);
  };

  const hear = (message: Asked): void => {
    if (message.type === 'want') {
      const { key, tab, body } = message;
      if (requests.has(key)) return;
      const owed = new Set(Object.keys(body.topologies));
      requests.set(key, { _tab: tab, _body: body, _owed: owed, _told: new Set(), _list: !!body.list, _beats: 0 });
      if (!watched.has(tab)) {
        watched.add(tab);
        watch(tab, () => {
          watched.delete(tab);
          for (const [key, { _tab }] of requests) if (_tab === tab) requests.delete(key);
          later();
        });
      }
      const refused = up?.getSnapshot().connection.state === 'refused';
      if (refused && host.performance.now() - refusedAt < 1000) return refuse(key);
      later();
    } else if (message.type === 'bye') {
      requests.delete(message.key);
      later();
    } else if (message.type === 'again') up?.reconnect();
    else beat();
  };

  return {
    _generation: generation,
    _hear: hear,
    _beat: () => {
      beat();
      for (const request of requests.values()) request._beats++;
      settle();
    },
    _stop: () => {
      stopped = true;
      host.clearTimeout(timer);
      old?.close();
      up?.close();
    },
  };
}
