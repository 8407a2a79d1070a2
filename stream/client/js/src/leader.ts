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
/** What the leader says: to all, or to the one that asked with this key. */
export interface Told {
  readonly generation: number;
  readonly key?: string;
  /** The leader's own: this is a beat. */
  readonly connection?: Connection;
  readonly frames?: readonly Frame[];
  /** Topologies that have begun with these frames. */
  readonly ids?: readonly string[];
  /** The list has begun. */
  readonly list?: boolean;
  /** The stream opens: all that it asked for has begun, or the wait for it is over. */
  readonly open?: boolean;
  /** The stream is refused. */
  readonly status?: number;
  readonly reason?: string;
}
export type Asked =
  | { readonly type: 'want'; readonly key: string; readonly body: Body }
  | { readonly type: 'again' | 'ask' };
export type Message = Told | Asked | { readonly type: 'who' | 'here'; readonly tab: string };

export interface Leader {
  readonly _generation: number;
  readonly _receive: (message: Asked) => void;
  readonly _beat: () => void;
  readonly _stop: () => void;
}

/** What the streams of a leader have of its tab's options. */
export type StreamOptions = Omit<Options, 'onEvent' | 'onConnection' | 'onViolation'>;

/** A stream that a tab has asked for. */
interface Request {
  readonly _body: Body;
  readonly _owed: Set<string>; // topologies that have not begun
  _list: boolean; // the list is owed
  _open?: boolean;
  _beats: number; // since it was made
}

/** What events have in common, and some have. */
interface Any {
  readonly kind: StreamEvent['kind'];
  readonly type: string;
  readonly topology_id?: string | null;
  readonly seq?: number;
  readonly ts?: string;
  readonly payload: { readonly more?: boolean };
}

/** How many beats a tab waits for all that it has asked for, before it gets what there is. */
const patience = 4;

export const bytesOf = (text: string): Uint8Array<ArrayBuffer> => new TextEncoder().encode(text);

export const textOf = ({ event, data }: Pick<Frame, 'event' | 'data'>): string =>
  `event: ${event}\ndata: ${JSON.stringify(data)}\n\n`;

export function lead(
  host: Host, options: StreamOptions, generation: number, feeds: Map<string, Feed>, getState: () => StreamState,
  send: (message: Message) => void, watch: (key: string, over: () => void) => void,
): Leader {
  const requests = new Map<string, Request>();
  let up: TopologyStream | undefined;
  let old: TopologyStream | undefined; // the one before up, until up has caught up with it
  let graph = false;
  let list = false;
  let timer: unknown;
  let refusedAt = -Infinity;
  let stopped = false;

  const say = (what: Omit<Told, 'generation'>): void => send({ generation, ...what });
  const tell = (frame: Frame): void => say({ frames: [frame] });
  const headOf = (id: string | null): number => feeds.get(id!)?._head ?? -1;
  const beat = (): void => say({ connection: (old ?? up)?.getSnapshot().connection ?? { state: 'connecting' } });

  const snapshotOf = (state: TopologyState): Frame => {
    const { id, part, problem, graph, graph_pending, broken, ...rest } = state;
    return { event: 'snapshot', id, seq: rest.seq!, data: { topology_id: id, ...rest, ...graph } };
  };

  const noticeOf = (id: string, event: string, reason?: string | null): Frame =>
    ({ event, id, data: { topology_id: id, payload: { reason } } });

  const listOf = (): Frame => ({ event: 'list', id: null, data: { data: up!.getSnapshot().list, more: false } });

  // ---------------------------------------------------------- what the server sends

  const take = (stream: TopologyStream, event: StreamEvent): void => {
    const { kind, type, topology_id: id = null, seq, ts, payload } = event as Any;
    const head = headOf(id);
    const news = kind === 'event' ? seq! === head + 1 // of two streams one is the first
      : kind === 'snapshot' ? seq! > head && !old
        : stream === up && (kind === 'list' ? !payload.more : id);
    if (!news) return;
    const whole = kind === 'snapshot' || kind === 'list';
    const data = whole ? payload : { topology_id: id, ts, seq, journaled: kind === 'event', payload };
    tell(type === 'list' && whole ? listOf() : { event: type, id, seq, data });
  };

  /** A stream of all that the tabs want. */
  const open = (topologies: Iterable<string>): TopologyStream => {
    const fetch = async (input: string | URL | globalThis.Request, init?: RequestInit): Promise<Response> => {
      const body = JSON.parse(init!.body as string) as { topologies: Record<string, number | null> };
      const known = stream.getSnapshot().topologies;
      let seeds = '';
      for (const id of Object.keys(body.topologies)) {
        const state = getState().topologies[id];
        if (known[id]?.seq !== null || !state?.seq || state.part !== 'live' || state.graph_pending[0]) continue;
        if (graphOf && !state.graph) continue;
        body.topologies[id] = state.seq;
        seeds += textOf(snapshotOf(state));
      }
      const response = await host.fetch(input, { ...init, body: JSON.stringify(body) });
      if (!seeds || response.status !== 200) return response;
      // It resumes from what this tab has, so the stream is to begin with that.
      const prefix = new TransformStream<Uint8Array, Uint8Array>({
        start: (controller) => controller.enqueue(bytesOf(seeds)),
      });
      return new Response(response.body!.pipeThrough(prefix), { headers: response.headers });
    };
    const graphOf = graph;
    const stream = new TopologyStream({ ...options, topologies, graph, list, host: hostWith(host, fetch) });
    const ours = (): boolean => stream === up || stream === old;
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
      if (stream !== up) return;
      beat();
      if (connection.state !== 'refused') return;
      refusedAt = host.performance.now();
      for (const key of requests.keys()) refuse(key);
    });
    stream.on('change', () => {
      if (ours()) serve();
    });
    return stream;
  };

  // ---------------------------------------------------------- what the tabs get

  const refuse = (key: string): void => {
    requests.delete(key);
    const { connection } = up!.getSnapshot();
    const { status, reason } = connection.state === 'refused' ? connection : { status: 403, reason: '' };
    say({ key, status, reason });
    uniteSoon();
  };

  /** The frames that begin a topology for a request; undefined while there are none yet. */
  const startOf = ({ _body: body }: Request, id: string): Frame[] | undefined => {
    const from = body.topologies[id]!;
    const feed = feeds.get(id);
    const state = up?.getSnapshot().topologies[id];
    if (from !== null && feed && from >= feed._head - feed._ring.length) {
      return feed._ring.filter(({ seq }) => seq! > from);
    }
    if (!state) return undefined;
    const { part, seq, problem } = state;
    const head = headOf(id);
    if (part === 'deleted') return [noticeOf(id, part)];
    if (part === 'unavailable' && !seq) {
      feeds.delete(id); // so that the snapshot that comes is news
      return [noticeOf(id, part, problem)];
    }
    const whole = seq && part !== 'waiting' && !state.graph_pending[0] && (state.graph || !body.graph);
    return whole && seq === head ? [snapshotOf(state)] : undefined;
  };

  /** Sends each request what has come of what it is owed. */
  const serve = (): void => {
    const now = up?.getSnapshot();
    if (!now) return;
    if (old) {
      const parts = Object.values(now.topologies);
      const behind = ({ id, seq }: TopologyState): boolean => seq! > headOf(id);
      if (old.getSnapshot().connection.state !== 'open' || parts.every((p) => p.part !== 'waiting' && !behind(p))) {
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
      const begins = request._list && !!now.list;
      if (begins) {
        frames.push(listOf());
        request._list = false;
      }
      const opens = !request._open
        && (!request._owed.size && !request._list || request._beats >= patience);
      request._open ||= opens;
      if (ids[0] || begins || opens) say({ key, ids, frames, list: begins, open: opens });
    }
  };

  /** Follows what all tabs want, on one stream. */
  const unite = (): void => {
    timer = undefined;
    const all = [...requests.values()];
    const ids = new Set(all.flatMap(({ _body }) => Object.keys(_body.topologies)));
    const withGraph = graph || all.some(({ _body }) => _body.graph);
    const withList = list || all.some(({ _body }) => _body.list);
    if (!up || withGraph !== graph || withList !== list) {
      graph = withGraph;
      list = withList;
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
    serve();
  };

  /** Soon: tabs that ask at about the same time cause one change of the stream. */
  const uniteSoon = (): void => {
    if (!stopped) timer ??= host.setTimeout(unite, 20);
  };

  const receive = (message: Asked): void => {
    if (message.type === 'want') {
      const { key, body } = message;
      if (requests.has(key)) return;
      const owed = new Set(Object.keys(body.topologies));
      requests.set(key, { _body: body, _owed: owed, _list: !!body.list, _beats: 0 });
      watch(key, () => {
        requests.delete(key);
        uniteSoon();
      });
      const refused = up?.getSnapshot().connection.state === 'refused';
      if (refused && host.performance.now() - refusedAt < 1000) return refuse(key);
      uniteSoon();
    } else if (message.type === 'again') up?.reconnect();
    else host.setTimeout(beat, 20); // Chromium hands a frozen page its messages, and runs no timers: it may not answer
  };

  return {
    _generation: generation,
    _receive: receive,
    _beat: () => {
      beat();
      for (const request of requests.values()) request._beats++;
      serve();
    },
    _stop: () => {
      stopped = true;
      host.clearTimeout(timer);
      const streams = [old, up];
      old = up = undefined;
      for (const stream of streams) stream?.close();
    },
  };
}
