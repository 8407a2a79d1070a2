import { platform, type Host } from './host.ts';
import { afterEvent, afterSnapshot, unknownState, type SharedSnapshot } from './replay.ts';
import { parser, type Frame } from './sse.ts';
import type { Connection, ListEvent, StreamEvent, StreamState, Summary, TopologyState, Violation } from './types.ts';

export interface Options<E = unknown> {
  /** The server, for example `https://topostream.example.org`; nothing for the page's own. */
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
  /** The server's `--keepalive` in milliseconds, 15,000 unless set: after three of them without a byte it reconnects. */
  keepalive?: number;
  onEvent?: (event: StreamEvent<E>) => void;
  onConnection?: (connection: Connection) => void;
  onViolation?: (violation: Violation) => void;
  /** @internal */
  host?: Partial<Host>;
}

export interface Listeners<E = unknown> {
  event: (event: StreamEvent<E>) => void;
  connection: (connection: Connection) => void;
  violation: (violation: Violation) => void;
}

/** Why `for await` ends when a stream is refused. */
export class RefusedError extends Error {
  constructor(readonly status: number, message: string) { super(message); }
}

/** @internal */
export interface Need { _ids: Iterable<string>; _graph: boolean; _list: boolean }

/** One topology. @internal */
export interface Part {
  _state: TopologyState;
  _admitted: boolean; // a stream that held it was opened once
  _resync: boolean; // nothing counts before the next snapshot
}

/** Where one stream is within one topology. */
interface Cursor {
  _at: number | null; // newest seq that came, at first what it was asked to resume from
  _from: number | null; // what came is contiguous since
}

/** One HTTP stream. @internal */
export interface Link {
  _abort: AbortController;
  _key: string; // what it was asked for
  _stale: boolean; // some of that must be asked for again
  _cursors: Map<string, Cursor>;
  _rows: Summary[]; // of a list that has not all come
  _token: string | undefined;
  _heard: boolean; // something came that only a server in order sends
  _expired: boolean;
  _problem: string;
  _opened: number; // 0: not yet
}

const second = 1000;
const minute = 60 * second;
const longestPause = 30 * second;
/** How long an old stream stays for a new one that gets no answer: a browser may have no connection left for it. */
const handover = 5 * second;

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
  /** @internal */ _options: Options<E>;
  /** @internal */ _host: Host;
  /** @internal */ _own = new Set<string>(); // what the user follows
  /** @internal */ _parts = new Map<string, Part>(); // and what else is on the stream
  /** @internal */ _current: Link | undefined; // open
  /** @internal */ _next: Link | undefined; // about to be
  /** @internal */ _active = true; // this tab is the one that has the stream
  /** @internal */ _connection: Connection = { state: 'idle' };
  /** @internal */ _list: Map<string, Summary> | undefined;
  /** @internal */ _started = false;
  /** @internal */ _url: string;
  _listeners = { event: new Set(), connection: new Set(), violation: new Set() };
  _subscribers = new Set<() => void>();
  _snapshot: StreamState | undefined; // what getSnapshot gives, as long as it is true
  _record: Record<string, TopologyState> | undefined;
  _array: readonly Summary[] | undefined;
  _dirty = false;
  _retry = 2 * second; // the server's reconnection time
  _failures = 0;
  _timer: unknown; // of the next try
  _batch: unknown; // of changes
  _again: unknown; // of parts to ask for again
  _troubles = 0;
  _troubled = -minute;
  _asked = false; // getToken has been asked once more
  _rejected: string | undefined;

  constructor(options: Options<E> = {}) {
    this._options = options;
    this._host = { ...platform, ...options.host };
    const url = (options.url ?? '').replace(/\/+$/, '');
    this._url = url.endsWith('/events') ? url : url + '/api/v1/events';
    for (const id of options.topologies ?? []) this.add(id);
    const { signal, onEvent, onConnection, onViolation } = options;
    signal?.addEventListener('abort', this.close);
    if (signal?.aborted) this.close();
    if (onEvent) this.on('event', onEvent);
    if (onConnection) this.on('connection', onConnection);
    if (onViolation) this.on('violation', onViolation);
  }

  /** The ids that are followed. */
  get topologies(): string[] { return [...this._own]; }

  /** Follows a topology. What is followed already goes on without a gap. */
  add(id: string): void {
    id = id.toLowerCase();
    if (this._own.has(id)) return;
    this._own.add(id);
    this._part(id);
    this._ownChanged();
  }

  /** Follows a topology no longer, and forgets its state. */
  remove(id: string): void {
    id = id.toLowerCase();
    if (!this._own.delete(id)) return;
    this._forget(id);
    this._ownChanged();
  }

  /** Connects, as the first listener does. */
  open(): void {
    if (this._started || this._connection.state === 'closed') return;
    this._started = true;
    this._host.window.addEventListener?.('online', this._online);
    this._begin();
  }

  /** Tries again at once, also after it was refused. */
  reconnect(): void {
    this._asked = false;
    if (!this._started) this.open();
    else if (!this._current) this._connect();
  }

  /** Ends the stream for good. */
  close = (): void => {
    if (this._connection.state === 'closed') return;
    this._options.signal?.removeEventListener('abort', this.close);
    this._host.window.removeEventListener?.('online', this._online);
    this._stop();
    this._setConnection({ state: 'closed' });
  };

  /** Calls back until the function that it gives is called. */
  on<K extends keyof Listeners>(name: K, listener: Listeners<E>[K]): () => void {
    const listeners = this._listeners[name];
    listeners.add(listener);
    this.open();
    return () => void listeners.delete(listener);
  }

  /** Calls back when `getSnapshot()` gives something else; until the function that it gives is called. */
  subscribe = (listener: () => void): (() => void) => {
    this._subscribers.add(listener);
    this.open();
    return () => void this._subscribers.delete(listener);
  };

  /** The replayed state: immutable, and the same object until something changes, in each of its parts, too. */
  getSnapshot = (): StreamState => {
    this._record ??= Object.fromEntries(this.topologies.map((id) => [id, this._part(id)._state]));
    if (this._options.list && this._list) this._array ??= [...this._list.values()];
    return this._snapshot ??= {
      connection: this._connection, topologies: this._record, list: this._array ?? null,
    };
  };

  /**
   * Every event from now on. What is not taken is kept, however much it is. Ends when the stream is closed or all its
   * topologies are deleted; throws a RefusedError when it is refused.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<StreamEvent<E>, void, undefined> {
    let queue: StreamEvent<E>[] = [];
    let wake: (value?: unknown) => void = () => {};
    const offs = [this.on('event', (event) => { queue.push(event); wake(); }), this.on('connection', () => wake())];
    try {
      for (;;) {
        const events = queue;
        queue = [];
        yield* events;
        const c = this._connection;
        if (queue.length) continue;
        if (c.state === 'closed' || c.state === 'ended') return;
        if (c.state === 'refused') throw new RefusedError(c.status, c.reason);
        await new Promise((resolve) => { wake = resolve; });
      }
    } finally {
      for (const off of offs) off();
    }
  }

  // ------------------------------------------------------------ what tabs that share a stream do otherwise

  /** @internal */
  _begin(): void { this._changed(); }

  /** Has no stream any more, and makes none. @internal */
  _stop(): void {
    this._current?._abort.abort();
    this._next?._abort.abort();
    this._current = this._next = undefined;
    for (const timer of [this._timer, this._batch, this._again]) this._host.clearTimeout(timer);
    this._timer = this._batch = this._again = undefined;
  }

  /** What the stream must hold. @internal */
  _need(): Need { return { _ids: this._own, _graph: !!this._options.graph, _list: !!this._options.list }; }

  /** An event was taken over into the state. @internal */
  _took(_event: StreamEvent<E>): void {}

  /** @internal */
  _forget(id: string): void { this._parts.delete(id); }

  // ------------------------------------------------------------ connecting

  /** @internal */
  _part(id: string): Part {
    let part = this._parts.get(id);
    if (!part) this._parts.set(id, part = { _state: unknownState(id), _admitted: false, _resync: false });
    return part;
  }

  /** What is needed and can be had. */
  _wanted(): { _ids: string[]; _graph: boolean; _list: boolean; _key: string } {
    const need = this._need();
    const ids = [...need._ids].filter((id) => !/^(del|ref)/.test(this._part(id)._state.part)).sort();
    return { ...need, _ids: ids, _key: ids + `|${need._graph}|${need._list}` };
  }

  _ownChanged(): void {
    this._record = undefined;
    this._touch();
    this._changed();
  }

  /** Called when what is needed may have changed. Changes of one turn make one new stream. @internal */
  _changed(): void {
    if (!this._started) return;
    this._batch ??= this._host.setTimeout(() => {
      this._batch = undefined;
      this._flush();
      if (this._next || /^(ref|clo)/.test(this._connection.state)) return; // seen to when it is opened
      const link = this._current;
      if (link ? link._stale || link._key !== this._wanted()._key : !this._timer) this._connect();
    }, 0);
  }

  _online = (): void => {
    if (this._connection.state === 'waiting') this._connect();
  };

  /** @internal */
  _connect = (): void => {
    this._host.clearTimeout(this._timer);
    this._timer = undefined;
    if (!this._active || this._next || this._connection.state === 'closed') return;
    const { _ids: ids, _key, _graph: graph, _list: list } = this._wanted();
    if (!ids[0] && !list) {
      this._current?._abort.abort();
      this._current = undefined;
      this._setConnection({ state: this._own.size ? 'ended' : 'idle' });
      return;
    }
    const link: Link = {
      _abort: new AbortController(), _key, _stale: false, _cursors: new Map(), _rows: [], _token: undefined,
      _heard: false, _expired: false, _problem: '', _opened: 0,
    };
    const topologies: Record<string, number | null> = {};
    for (const id of ids) {
      const part = this._part(id);
      const { seq, graph: has } = part._state;
      // Where a new snapshot is needed, the old stream's events count no longer: it would take the state backwards.
      part._resync ||= graph && !has && seq !== null;
      const at = topologies[id] = part._resync ? null : seq;
      link._cursors.set(id, { _at: at, _from: seq });
    }
    this._next = link;
    if (!this._current) this._setConnection({ state: 'connecting' });
    void this._run(link, JSON.stringify({ topologies, ...(graph && { graph }), ...(list && { list }) }));
  };

  async _run(link: Link, body: string): Promise<void> {
    const { _host: host, _options: { getToken, credentials, keepalive = 15 * second } } = this;
    const { signal } = link._abort;
    let lastByte = host.now();
    let status = 0;
    let retryAfter = 0;
    let timer: unknown;
    const end = (problem: unknown): void => {
      host.clearTimeout(timer);
      host.clearTimeout(impatient);
      link._abort.abort(); // a body that nobody reads holds its connection
      link._problem ||= String(problem);
      this._ended(link, status, retryAfter);
    };
    const watch = (): void => {
      const left = lastByte + 3 * keepalive - host.now();
      if (left <= 0) end(`no byte came for ${3 * keepalive} ms`);
      else timer = host.setTimeout(watch, left);
    };
    const impatient = host.setTimeout(() => {
      if (link !== this._next || !this._current) return;
      this._current._abort.abort();
      this._current = undefined;
      this._setConnection({ state: 'connecting' });
    }, handover);
    watch();
    try {
      link._token = (await getToken?.(this._rejected)) ?? undefined;
      const response = await host.fetch(this._url, {
        method: 'POST', body, signal, cache: 'no-store', ...(credentials && { credentials }),
        headers: {
          'Content-Type': 'application/json', ...(link._token && { Authorization: 'Bearer ' + link._token }),
        },
      });
      lastByte = host.now();
      status = response.status;
      const { headers } = response;
      if (status === 200 && headers.get('Content-Type')?.startsWith('text/event-stream')) {
        this._openedLink(link);
        const parse = parser((frame) => this._frame(link, frame), (ms) => { this._retry = ms; });
        const reader = response.body!.getReader();
        for (let read; !(read = await reader.read()).done && !signal.aborted; ) {
          lastByte = host.now();
          parse(read.value);
          this._flush();
        }
        end('the stream has ended');
      } else {
        retryAfter = delayOf(headers.get('Retry-After'));
        const problem = (await response.json().catch(() => null)) as { detail?: string } | null;
        end(problem?.detail ?? `HTTP ${status}`);
      }
    } catch (error) {
      end((error as Error)?.message ?? error);
    }
  }

  _openedLink(link: Link): void {
    if (link !== this._next) return;
    this._current?._abort.abort();
    this._current = link;
    this._next = this._rejected = undefined;
    this._asked = false;
    link._opened = this._host.now();
    this._host.clearTimeout(this._again);
    this._again = undefined;
    for (const id of link._cursors.keys()) {
      const part = this._parts.get(id);
      if (!part) continue;
      part._admitted = true;
      if (part._state.part === 'unavailable') this._set(part, { part: 'waiting', problem: null });
    }
    this._setConnection({ state: 'open' });
    this._changed(); // what was added or removed meanwhile
  }

  /** Decides what follows the end of a stream, or of an attempt at one. */
  _ended(link: Link, status: number, retryAfter: number): void {
    const attempt = link === this._next;
    if (attempt) this._next = undefined;
    else if (link === this._current) this._current = undefined;
    else return; // another has taken its place
    const { _problem: reason, _heard: heard, _token: token } = link;
    if (link._expired || status === 401) this._rejected = token;
    if (attempt && status >= 400 && status < 500 && status !== 408 && status !== 425 && status !== 429) {
      if (status === 401 && this._options.getToken && !this._asked) {
        this._asked = true;
        this._connect();
        return;
      }
      const fresh = [...link._cursors.keys()].map((id) => this._part(id)).filter((part) => !part._admitted);
      // The token holds for what was admitted before, so it is what was added that it does not hold for.
      if (status === 403 && fresh[0] && fresh.length < link._cursors.size) {
        for (const part of fresh) this._set(part, { part: 'refused', problem: reason });
        this._connect();
        this._flush();
        return;
      }
      if (!this._current) {
        this._setConnection({ state: 'refused', status, reason });
        return;
      }
    }
    if (this._next) { // it is under way already
      this._setConnection({ state: 'connecting' });
      return;
    }
    const lived = link._opened && this._host.now() - link._opened > 15 * second;
    this._failures = heard || lived ? 0 : this._failures + 1;
    const retry_in = Math.max(link._expired && heard ? 0 : this._pause(this._failures), retryAfter);
    const { _ids: [first], _list } = this._wanted();
    if (!first && !_list) { // the last topology was deleted
      this._connect();
      return;
    }
    if (!this._current) this._setConnection({ state: 'waiting', reason, retry_in });
    this._timer = this._host.setTimeout(this._connect, retry_in);
  }

  /** The server draws its reconnection time for each stream; what comes after that is ours to spread. */
  _pause(failures: number): number {
    const retry = this._retry;
    return failures
      ? Math.min(Math.max(longestPause, retry), retry * 2 ** (failures - 1)) * (0.75 + this._host.random() / 2)
      : retry;
  }

  /** Asks for one topology again, by and by, on a new stream for all. */
  _askAgain(): void {
    const now = this._host.now();
    if (now - this._troubled > minute) this._troubles = 0;
    this._troubled = now;
    this._again ??= this._host.setTimeout(() => {
      this._again = undefined;
      if (this._current) this._current._stale = true;
      this._changed();
    }, this._pause(++this._troubles));
  }

  // ------------------------------------------------------------ receiving

  _frame(link: Link, { event: type, data: text, id }: Frame): void {
    if (link._abort.signal.aborted) return;
    try {
      const data = JSON.parse(text) as Wire;
      const { seq, ts, journaled, payload } = data;
      const kind = /^(list|topology|removed)$/.test(type) ? 'list'
        : type === 'snapshot' ? type
          : journaled ? 'event'
            : /^(unavailable|token_expired|deleted)$/.test(type) ? 'notice' : 'raw';
      const topology_id = (kind === 'notice' && (payload as Wire | undefined)?.topology_id)
        || (data.topology_id ?? data.topic?.split('.')[1] ?? null); // "topology.<id>.<type>"
      this._receive({
        kind, type, topology_id, seq, ts, payload: kind === 'list' || kind === 'snapshot' ? data : payload,
      } as StreamEvent<E>, link, id);
    } catch (error) {
      link._problem = `malformed: ${(error as Error).message}`;
      link._heard = false;
      this._broken(null, 'malformed', null, null);
      link._abort.abort();
      this._ended(link, 0, 0);
    }
  }

  /** Takes an event in. Without a link it is from another tab, which has checked its number. @internal */
  _receive(event: StreamEvent<E>, link?: Link, frameId?: string | null): void {
    if (link && event.kind !== 'notice') link._heard = true;
    if (event.kind === 'list') {
      this._takeList(event, link?._rows);
      return;
    }
    const { topology_id: id, type } = event;
    if (event.kind === 'notice' && type !== 'deleted' && !event.payload.topology_id) { // the whole stream's
      if (link) {
        link._expired = type === 'token_expired';
        link._problem = event.payload.reason ?? type;
      }
      this._emit('event', { ...event, topology_id: null });
      return;
    }
    const part = this._parts.get(id ?? '');
    if (!part) return; // removed, and the stream is about to be another
    const cursor = link?._cursors.get(id!);
    const { seq: last } = part._state;
    if (event.kind === 'notice') {
      const gone = event.type === 'deleted';
      this._set(part, { part: gone ? 'deleted' : 'unavailable', problem: event.payload?.reason ?? null });
      if (link && !gone) this._askAgain();
    } else if (event.kind !== 'raw') {
      const { seq } = event;
      if (!Number.isSafeInteger(seq) || (frameId && frameId !== `${seq}`)) {
        this._lost(part, 'malformed', last, seq);
        return;
      }
      if (event.kind === 'snapshot') {
        const least = cursor ? cursor._at ?? (part._resync ? last : null) : null;
        if (cursor) cursor._at = cursor._from = seq;
        if (least !== null && seq < least) this._broken(part, 'back', least, seq);
        else if (!part._resync && last !== null && seq < last) return; // another stream was further already
        part._resync = false;
        this._set(part, afterSnapshot(part._state, event.payload as SharedSnapshot));
      } else {
        if (cursor) {
          const { _at: at, _from: from } = cursor;
          const expected = at === null ? null : at + 1;
          if (at !== null && seq <= at) {
            this._broken(part, seq === at || seq > from! ? 'double' : 'order', expected, seq);
            return;
          }
          cursor._at = seq;
          if (seq !== expected) {
            cursor._from = seq - 1;
            this._lost(part, 'hole', expected, seq);
            return;
          }
        }
        if (part._resync || (last !== null && seq <= last)) return; // the latter: another stream was first
        if (seq !== last! + 1) {
          this._lost(part);
          return;
        }
        this._set(part, afterEvent(part._state, event));
      }
    }
    this._took(event);
    if (this._own.has(id!)) this._emit('event', event);
  }

  _takeList(event: ListEvent, all: Summary[] = []): void {
    const { type, payload } = event;
    const newer = (row: Summary): Summary => {
      const old = this._list?.get(row.id);
      return old && old.seq > row.seq ? old : row;
    };
    if (type === 'list') {
      for (const row of payload.data) all.push(row);
      if (!payload.more) {
        // Whoever reconnects gets it all again. A server that is behind must take no row back.
        this._list = new Map(all.map((row) => [row.id, newer(row)]));
        all.length = 0;
        this._took({ kind: 'list', type, payload: { data: [...this._list.values()], more: false } });
      }
    } else {
      if (type === 'removed') this._list?.delete(payload.id);
      else this._list?.set(payload.id, newer(payload));
      this._took(event);
    }
    this._array = undefined;
    this._touch();
    if (this._options.list) this._emit('event', event);
  }

  // ------------------------------------------------------------ telling

  _set(part: Part, change: Partial<TopologyState>): void {
    part._state = { ...part._state, ...change };
    if (!this._own.has(part._state.id)) return;
    this._record = undefined;
    this._touch();
  }

  /** Something of a topology is missing: only a snapshot can put it right. @internal */
  _lost(part: Part, kind?: Violation['kind'], expected: number | null = null, got: number | null = null): void {
    if (kind) this._broken(part, kind, expected, got);
    part._resync = true;
    this._set(part, { part: 'waiting' });
    this._askAgain();
  }

  /** @internal */
  _broken(part: Part | null, kind: Violation['kind'], expected: number | null, got: number | null): void {
    const topology_id = part && part._state.id;
    const broken = { kind, topology_id, expected, got };
    if (part) this._set(part, { broken });
    if (!part || this._own.has(part._state.id)) this._emit('violation', broken);
  }

  /** @internal */
  _setConnection(connection: Connection): void {
    if (connection.state === this._connection.state && !('reason' in connection)) return;
    this._connection = connection;
    this._touch();
    this._emit('connection', connection);
    this._flush();
  }

  /** @internal */
  _touch(): void {
    this._snapshot = undefined;
    this._dirty = true;
  }

  /** Tells subscribers once of what a chunk of bytes has changed. @internal */
  _flush(): void {
    if (!this._dirty) return;
    this._dirty = false;
    for (const subscriber of [...this._subscribers]) attempt(subscriber);
  }

  /** @internal */
  _emit<K extends keyof Listeners>(name: K, value: Parameters<Listeners<E>[K]>[0]): void {
    for (const listener of [...this._listeners[name]]) attempt(listener as (value: unknown) => void, value);
  }
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

/** A listener that throws is its owner's error, and stops nobody else. */
function attempt<T>(listener: (value?: T) => void, value?: T): void {
  try {
    listener(value);
  } catch (error) {
    queueMicrotask(() => { throw error; });
  }
}

/** Milliseconds of a Retry-After (RFC 9110, section 10.2.3): seconds or a date; 0 for anything else. */
function delayOf(header: string | null): number {
  if (!header) return 0;
  return Math.max(0, (+header >= 0 ? +header * second : Date.parse(header) - Date.now()) || 0);
}
