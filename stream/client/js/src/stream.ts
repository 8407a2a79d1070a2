// The client: follows topologies on one stream, reconnects, resumes, and checks the promise.
import { connect } from './connection.ts';
import type { Host } from './host.ts';
import { takeListEvent, type Rows } from './list.ts';
import { advance, type Cursor } from './promise.ts';
import { afterEvent, afterSnapshot, unknownState } from './replay.ts';
import type { Frame } from './sse.ts';
import type {
  Connection, Journaled, NoticeEvent, SnapshotEvent, StreamEvent, StreamState, Summary, TopologyState, Violation,
} from './types.ts';

export interface Options<E = unknown> {
  /** The server, for example `https://topostream.example.org`, no slash at the end; nothing for the page's own. */
  url?: string;
  /**
   * Gives the token for the next request; nothing where a cookie speaks for the page. `rejected` is the one that has
   * expired or was refused with 401: give another.
   */
  getToken?: (rejected?: string) => string | null | undefined | Promise<string | null | undefined>;
  /** Ids of topologies to begin with. */
  topologies?: Iterable<string>;
  /** Follow the list of topologies, too. */
  list?: boolean;
  /** Keep each topology's graph. */
  graph?: boolean;
  /** Ends the stream as `close()` does. */
  signal?: AbortSignal;
  /** As fetch has it: `include` sends a cookie to another origin. */
  credentials?: RequestCredentials;
  /** The server's `--keepalive` in milliseconds, 15,000 unless set: after three without a byte it reconnects. */
  keepalive?: number;
  onEvent?: (event: StreamEvent<E>) => void;
  onConnection?: (connection: Connection) => void;
  onViolation?: (violation: Violation) => void;
  /** @internal */
  host?: Host;
}

export interface Listeners<E = unknown> {
  event: (event: StreamEvent<E>) => void;
  connection: (connection: Connection) => void;
  violation: (violation: Violation) => void;
  /** `getSnapshot()` gives something else: called once for what a chunk of bytes has changed. */
  change: () => void;
}

/** Why `for await` ends when a stream is refused. */
export class RefusedError extends Error {
  constructor(readonly status: number, message: string) { super(message); }
}

/** One topology. */
interface Part {
  _state: TopologyState;
  _admitted?: boolean; // a stream that held it was opened once
  _resync?: boolean; // nothing counts before the next snapshot
}

/** One HTTP stream. */
interface Link {
  _abort: AbortController;
  _cursors: Map<Part, Cursor>; // of what it was asked for
}

/** The data of a frame, as far as frames have fields in common. */
interface Wire {
  topic?: string;
  topology_id?: string;
  seq?: number;
  ts?: string;
  journaled?: boolean;
  payload?: unknown;
}

type NoticePayload = NoticeEvent['payload'];
type Numbered = SnapshotEvent | Journaled<string, unknown>;

const second = 1000;
/** How long an old stream stays for a new one that gets no answer: a browser may have no connection left for it. */
const handover = 5 * second;

const isLive = ({ _state: { part } }: Part): boolean => !/^(deleted|refused)/.test(part);

/**
 * Follows topologies, and the list of them, on one stream of a topostream server.
 *
 * It connects when somebody listens: a callback, `on`, `subscribe`, `for await` or `open()`; so it may be made on a
 * server that renders pages. It reconnects until it is closed or refused, and resumes where it was. Of each topology
 * comes a snapshot at N, then N + 1, N + 2, …; it checks that, and says so if it is not so.
 *
 * E adds events of your own: `TopologyStream<{'decky.service_added': {decky_name: string}}>`.
 */
export class TopologyStream<E = unknown> implements AsyncIterable<StreamEvent<E>> {
  /** Follows a topology. What is followed already goes on without a gap. */
  declare readonly add: (id: string) => void;
  /** Follows a topology no longer, and forgets its state. */
  declare readonly remove: (id: string) => void;
  /** Connects, as the first listener does. */
  declare readonly open: () => void;
  /** Tries again at once, also after it was refused. */
  declare readonly reconnect: () => void;
  /** Ends the stream for good. */
  declare readonly close: () => void;
  /** Calls back until the function that it gives is called. */
  declare readonly on: <K extends keyof Listeners>(name: K, listener: Listeners<E>[K]) => () => void;
  /** `on('change', …)`. */
  declare readonly subscribe: (listener: () => void) => () => void;
  /** The replayed state: immutable, and the same object until something changes, in each of its parts, too. */
  declare readonly getSnapshot: () => StreamState;

  // All state is in variables of the constructor, not in properties: that makes the built file a fifth smaller.
  constructor(options: Options<E> = {}) {
    const {
      url = '', getToken, topologies: initial = [], list: withList, graph, signal, credentials,
      keepalive = 15 * second, host = globalThis as Host,
    } = options;
    const parts = new Map<string, Part>();
    const listeners = { event: new Set(), connection: new Set(), violation: new Set(), change: new Set() };
    let connection: Connection = { state: 'idle' };
    let rows: Rows = null; // of the list
    let snapshot: StreamState | undefined; // what getSnapshot gives, as long as it is true
    let topologies: Record<string, TopologyState> | undefined; // the same of its parts
    let list: Summary[] | null = null;
    let started = false;
    let halted = true; // not started, refused or closed
    let current: Link | undefined; // open
    let next: Link | undefined; // about to be
    let timer: unknown; // of the next try
    let reconciling = false; // it is queued
    let retry = 2 * second; // the server's reconnection time
    let failures = 0;
    let asked = false; // getToken has been asked once more after a 401
    let rejected: string | undefined;

    // ---------------------------------------------------------- telling

    const emit = <K extends keyof Listeners>(name: K, value?: Parameters<Listeners<E>[K]>[0]): void => {
      for (const listener of [...listeners[name]]) {
        try {
          (listener as (value: unknown) => void)(value);
        } catch (error) { // its owner's, and stops nobody else
          queueMicrotask(() => { throw error; });
        }
      }
    };

    /** Something is different. What one turn changes is told once, and makes one new stream at most. */
    const touch = (): void => {
      snapshot = undefined;
      if (reconciling) return;
      reconciling = true;
      queueMicrotask(() => {
        reconciling = false;
        emit('change');
        reconcile();
      });
    };

    const set = (part: Part, change: Partial<TopologyState>): void => {
      part._state = { ...part._state, ...change };
      topologies = undefined;
      touch();
    };

    const setConnection = (to: Connection): void => {
      if (to.state === connection.state) return;
      connection = to;
      touch();
      emit('connection', to);
    };

    // ---------------------------------------------------------- connecting

    const cancel = (): void => {
      host.clearTimeout(timer);
      timer = undefined;
    };

    /** The server draws its reconnection time for each stream; what comes after that is ours to spread. */
    const pause = (): number => failures
      ? Math.min(Math.max(30 * second, retry), retry * 2 ** (failures - 1)) * (0.75 + host.Math.random() / 2)
      : retry;

    const wanted = (): Part[] => [...parts.values()].filter(isLive);

    const drop = (): void => {
      current?._abort.abort();
      current = undefined;
    };

    const stop = (): void => {
      cancel();
      drop();
      next?._abort.abort();
      next = undefined;
    };

    /** Opens a new stream if the one that there is does not hold just what is wanted. */
    const reconcile = (): void => {
      if (halted || next || timer) return;
      const all = wanted();
      const held = current?._cursors;
      if (!all[0] && !withList) {
        stop();
        setConnection({ state: parts.size ? 'ended' : 'idle' });
      } else if (!held || all.some((part) => !held.has(part)) || [...held.keys()].filter(isLive).length > all.length) {
        begin();
      }
    };

    const begin = (): void => {
      cancel();
      next?._abort.abort();
      const cursors = new Map<Part, Cursor>();
      const topologies: Record<string, number | null> = {};
      for (const part of wanted()) {
        const { id, seq } = part._state;
        topologies[id] = part._resync ? null : seq;
        cursors.set(part, { _at: seq, _from: seq });
      }
      const body = JSON.stringify({ topologies, graph, list: withList });
      const abort = new AbortController();
      const link: Link = next = { _abort: abort, _cursors: cursors };
      if (!current) setConnection({ state: 'connecting' });

      const arrivals: Summary[] = []; // of a list that has not all come
      let token: string | undefined;
      let provenAt = Infinity; // from when on this stream counts as a success, which ends a row of failures
      let expired = false;
      let notice: string | undefined; // why the server ends it

      const broken = (
        part: Part | null, kind: Violation['kind'], expected: number | null, got: number | null,
      ): void => {
        const violation = { kind, topology_id: part && part._state.id, expected, got };
        if (part) set(part, { broken: violation });
        emit('violation', violation);
      };

      /** Asks for all again, after a pause: only another stream brings this part what is missing. */
      const askAgain = (part: Part, change: Partial<TopologyState>): void => {
        set(part, change);
        failures++;
        timer ??= host.setTimeout(begin, pause());
      };

      const receive = ({ event: type, data: text, id: frameId }: Frame): void => {
        const data = JSON.parse(text) as Wire;
        const { ts, seq, journaled, payload } = data;
        const kind = /^(list|topology|removed)$/.test(type) ? 'list'
          : type === 'snapshot' ? type
            : journaled ? 'event'
              : /^(unavailable|token_expired|deleted)$/.test(type) ? 'notice' : 'raw';
        const { reason, topology_id: named } = (kind === 'notice' && payload || {}) as NoticePayload;
        const topology_id = named ?? data.topology_id ?? (data.topic?.split('.')[1] || null); // "topology.<id>.<type>"
        const event = {
          kind, type, topology_id, seq, ts, payload: kind === 'list' || kind === type ? data : payload,
        } as StreamEvent<E>;
        const part = parts.get(topology_id!)!;
        const cursor = cursors.get(part);
        if (event.kind === 'list') {
          rows = takeListEvent(rows, arrivals, event);
          list = null;
          touch();
        } else if (event.kind === 'notice' && type !== 'deleted' && !named) { // the whole stream's
          expired = type === 'token_expired';
          notice = reason ?? type;
        } else if (!cursor) {
          return; // removed since, and the stream is about to be another
        } else if (event.kind === 'notice') {
          if (type === 'deleted') set(part, { part: type, problem: null });
          else askAgain(part, { part: 'unavailable', problem: reason ?? null });
        } else if (event.kind !== 'raw' && !take(part, cursor, event as Numbered, frameId)) {
          return;
        }
        if (kind !== 'notice') provenAt = 0;
        emit('event', event);
      };

      /** Takes what has a number into the state, and says whether it is news. */
      const take = (part: Part, cursor: Cursor, event: Numbered, frameId: string | null): boolean => {
        const { seq } = event;
        const { _at: at } = cursor;
        const { _state: state, _resync: resync } = part;
        const last = state.seq!; // null is less than any number
        let problem: Violation['kind'] | undefined = 'malformed';
        if (Number.isSafeInteger(seq) && (!frameId || frameId === `${seq}`)) {
          if (event.kind === 'snapshot') {
            cursor._at = cursor._from = seq;
            if (seq < at!) broken(part, 'back', at, seq);
            else if (!resync && seq < last) return false; // another stream was further already
            part._resync = false;
            set(part, afterSnapshot(part._state, event.payload));
            return true;
          }
          problem = advance(cursor, seq);
          if (!problem && (resync || seq <= last)) return false; // the latter: another stream was first
        }
        if (problem) broken(part, problem, at && at + 1, seq);
        else if (seq === last + 1) {
          set(part, afterEvent(state, event as Journaled<string, unknown>));
          return true;
        }
        if (problem !== 'double' && problem !== 'order') { // which leave nothing missing
          part._resync = true;
          askAgain(part, { part: 'waiting' });
        }
        return false;
      };

      void connect(host, 3 * keepalive, {
        _abort: abort,
        _request: async () => {
          token = (await getToken?.(rejected)) ?? undefined;
          return host.fetch(url + '/api/v1/events', {
            method: 'POST', body, signal: abort.signal, credentials: credentials!,
            headers: { 'Content-Type': 'application/json', ...(token && { Authorization: 'Bearer ' + token }) },
          });
        },
        _onRetry: (ms) => { retry = ms; },
        _onSilence: (ms) => {
          if (link !== next || ms < handover) return;
          drop();
          setConnection({ state: 'connecting' });
        },
        _onOpen: () => {
          if (link !== next) return;
          drop();
          current = link;
          next = rejected = undefined;
          asked = false;
          provenAt = host.performance.now() + 15 * second;
          for (const part of cursors.keys()) {
            part._admitted = true;
            const { part: was, seq } = part._state;
            if (was === 'unavailable') set(part, { part: seq ? 'live' : 'waiting', problem: null });
          }
          setConnection({ state: 'open' });
          touch(); // what was added or removed meanwhile
        },
        _onFrame: (frame) => {
          if (abort.signal.aborted) return;
          try {
            receive(frame);
          } catch (error) {
            provenAt = Infinity;
            broken(null, 'malformed', null, null);
            throw error; // ends the stream
          }
        },
        _onEnd: (problem, status, retryAfter) => {
          const reason = notice ?? problem;
          const attempt = link === next;
          if (attempt) next = undefined;
          else if (link === current) current = undefined;
          else return; // another has taken its place
          if (expired || status === 401) rejected = token;
          if (attempt && /^4(?!08|25|29)/.test(`${status}`)) {
            if (status === 401 && getToken && !asked) {
              asked = true;
              begin();
              return;
            }
            const fresh = [...cursors.keys()].filter((part) => !part._admitted);
            // The token holds for what was admitted before, so it is what was added that it does not hold for.
            if (status === 403 && fresh[0] && (current || fresh.length < cursors.size)) {
              for (const part of fresh) set(part, { part: 'refused', problem: reason });
              return;
            }
            if (!current) {
              halted = true;
              setConnection({ state: 'refused', status, reason });
              return;
            }
          }
          if (next) { // it is under way already
            setConnection({ state: 'connecting' });
            return;
          }
          failures = host.performance.now() > provenAt ? 0 : failures + 1;
          const retry_in = Math.max(expired && !failures ? 0 : pause(), retryAfter);
          cancel();
          timer = host.setTimeout(begin, retry_in);
          if (!current) setConnection({ state: 'waiting', reason, retry_in });
        },
      });
    };

    // ---------------------------------------------------------- what the user calls

    const changed = (): void => {
      topologies = undefined;
      if (current) cancel(); // what failed before is no reason to wait
      touch();
    };

    const online = (): void => {
      if (connection.state === 'waiting') begin();
    };

    this.add = (id) => {
      id = id.toLowerCase();
      if (parts.has(id)) return;
      parts.set(id, { _state: unknownState(id) });
      changed();
    };

    this.remove = (id) => {
      if (parts.delete(id.toLowerCase())) changed();
    };

    this.open = () => {
      if (started) return;
      started = true;
      halted = false;
      host.addEventListener?.('online', online);
      touch();
    };

    this.reconnect = () => {
      this.open();
      asked = false;
      if (current || connection.state === 'closed') return;
      halted = false;
      cancel();
      setConnection({ state: 'connecting' });
    };

    this.close = () => {
      if (connection.state === 'closed') return;
      halted = started = true;
      signal?.removeEventListener('abort', this.close);
      host.removeEventListener?.('online', online);
      stop();
      setConnection({ state: 'closed' });
    };

    this.on = (name, listener) => {
      listeners[name].add(listener);
      this.open();
      return () => void listeners[name].delete(listener);
    };

    this.subscribe = (listener) => this.on('change', listener);

    this.getSnapshot = () => {
      topologies ??= Object.fromEntries([...parts].map(([id, { _state }]) => [id, _state]));
      list ??= rows && [...rows.values()];
      return snapshot ??= { connection, topologies, list };
    };

    for (const id of initial) this.add(id);
    if (signal?.aborted) this.close();
    signal?.addEventListener('abort', this.close);
    const { onEvent, onConnection, onViolation } = options;
    if (onEvent) this.on('event', onEvent);
    if (onConnection) this.on('connection', onConnection);
    if (onViolation) this.on('violation', onViolation);
  }

  /**
   * Every event from now on. What is not taken is kept, however much it is. Ends when the stream is closed or all its
   * topologies are deleted; throws a RefusedError when it is refused.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<StreamEvent<E>, void, undefined> {
    const queue: StreamEvent<E>[] = [];
    let wake: (value?: unknown) => void;
    const offs = [this.on('event', (event) => { queue.push(event); wake?.(); }), this.subscribe(() => wake?.())];
    try {
      for (;;) {
        while (queue[0]) yield* queue.splice(0);
        const { connection: c } = this.getSnapshot();
        if (c.state === 'closed' || c.state === 'ended') return;
        if (c.state === 'refused') throw new RefusedError(c.status, c.reason);
        await new Promise((resolve) => { wake = resolve; });
      }
    } finally {
      for (const off of offs) off();
    }
  }
}
