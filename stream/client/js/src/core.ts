import { platform, type Host } from './host.ts';
import { afterEvent, afterSnapshot, unknownState, type SharedSnapshot } from './replay.ts';
import { parser } from './sse.ts';
import type { Connection, Graph, StreamEvent, StreamState, Summary, TopologyState, Violation } from './types.ts';

export { applyGraph } from './graph.ts';
export { parser, type Frame } from './sse.ts';
export type * from './types.ts';

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

export interface Listeners<E> {
  event: (event: StreamEvent<E>) => void;
  connection: (connection: Connection) => void;
  violation: (violation: Violation) => void;
}

/** Why `for await` ends when a stream is refused. */
export class RefusedError extends Error {
  override readonly name = 'RefusedError';
  constructor(readonly status: number, message: string) { super(message); }
}

/** What is to be followed. */
export interface Need { ids: string[]; graph: boolean; list: boolean }

/** One topology. @internal */
export interface Part {
  _state: TopologyState;
  _admitted: boolean; // a stream that held it was opened once
  _resync: boolean; // nothing counts before the next snapshot
  _failures: number;
  _timer: unknown;
}

/** One HTTP stream, or what the tab that has one sends. @internal */
export interface Link {
  _abort: AbortController;
  _key: string; // of what it was asked for
  _stale: boolean; // a part of it must be asked for again
  _cursors: Map<string, number | null>; // newest seq that came on it, at first what it was asked to resume from
  _first: Map<string, number>; // least seq since which what came was contiguous
  _rows: Summary[]; // of a list that has not all come
  _token: string | undefined;
  _heard: boolean; // something came that only a server in order sends
  _expired: boolean;
  _problem: string;
  _opened: number | null;
  _lastByte: number;
  _shared: boolean; // from a tab: numbers were checked there
}

const second = 1000;
const longestDelay = 30 * second;
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
  /** @internal */ _host: Host;
  /** @internal */ _own = new Set<string>();
  /** @internal */ _parts = new Map<string, Part>();
  /** @internal */ _current: Link | null = null; // open
  /** @internal */ _next: Link | null = null; // about to be
  /** @internal */ _active = true; // this tab is the one that has the stream
  /** @internal */ _connection: Connection = { state: 'idle' };
  /** @internal */ _rows: Map<string, Summary> | null = null;
  /** @internal */ _started = false;
  #options: Options<E>;
  #url: string;
  #listeners = { event: new Set<never>(), connection: new Set<never>(), violation: new Set<never>() };
  #subscribers = new Set<() => void>();
  #snapshot: StreamState | null = null;
  #record: Record<string, TopologyState> | null = null;
  #list: readonly Summary[] | null = null;
  #dirty = false;
  #retry = 2 * second; // the server's reconnection time
  #failures = 0;
  #timer: unknown; // of the next try
  #batch: unknown;
  #asked = false; // getToken has been asked once more
  #rejected: string | undefined;

  constructor(options: Options<E> = {}) {
    this.#options = options;
    this._host = { ...platform(), ...options.host };
    const url = (options.url ?? '').replace(/\/+$/, '');
    this.#url = url.endsWith('/events') ? url : `${url}/api/v1/events`;
    for (const id of options.topologies ?? []) this.add(id);
    options.signal?.addEventListener('abort', this.close);
    if (options.signal?.aborted) this.close();
    if (options.onEvent) this.on('event', options.onEvent);
    if (options.onConnection) this.on('connection', options.onConnection);
    if (options.onViolation) this.on('violation', options.onViolation);
  }

  /** The ids that are followed. */
  get topologies(): string[] { return [...this._own]; }

  /** Follows a topology. What is followed already goes on without a gap. */
  add(id: string): void {
    id = id.toLowerCase();
    if (this._own.has(id)) return;
    this._own.add(id);
    this._part(id);
    this.#record = null;
    this._touch();
    this._changed();
  }

  /** Follows a topology no longer, and forgets its state. */
  remove(id: string): void {
    id = id.toLowerCase();
    if (!this._own.delete(id)) return;
    this._drop(id);
    this.#record = null;
    this._touch();
    this._changed();
  }

  /** Connects, as the first listener does. */
  open(): void {
    if (this._started || this._connection.state === 'closed') return;
    this._started = true;
    this._host.listen('online', this.#online);
    this._begin();
  }

  /** Tries again at once, also after it was refused. */
  reconnect(): void {
    if (this._connection.state === 'closed') return;
    this.#asked = false;
    this._started ? this._restart() : this.open();
  }

  /** Ends the stream for good. */
  close = (): void => {
    if (this._connection.state === 'closed') return;
    this.#options.signal?.removeEventListener('abort', this.close);
    this._host.unlisten('online', this.#online);
    this._stop();
    this._setConnection({ state: 'closed' });
  };

  /** Calls back until the function that it gives is called. */
  on<K extends keyof Listeners<E>>(name: K, listener: Listeners<E>[K]): () => void {
    const set = this.#listeners[name] as Set<unknown>;
    set.add(listener);
    this.open();
    return () => void set.delete(listener);
  }

  /** Calls back when `getSnapshot()` gives something else; until the function that it gives is called. */
  subscribe = (listener: () => void): (() => void) => {
    this.#subscribers.add(listener);
    this.open();
    return () => void this.#subscribers.delete(listener);
  };

  /** The replayed state: immutable, and the same object until something changes, in each of its parts, too. */
  getSnapshot = (): StreamState => {
    if (!this.#record) {
      this.#record = {};
      for (const id of this._own) this.#record[id] = this._part(id)._state;
    }
    if (!this.#list && this._rows && this.#options.list) this.#list = [...this._rows.values()];
    return this.#snapshot ??= { connection: this._connection, topologies: this.#record, list: this.#list };
  };

  /**
   * Every event from now on. What is not taken is kept, however much it is. Ends when the stream is closed or all its
   * topologies are deleted; throws a RefusedError when it is refused.
   */
  async *[Symbol.asyncIterator](): AsyncGenerator<StreamEvent<E>, void, undefined> {
    let queue: StreamEvent<E>[] = [];
    let wake = (): void => {};
    const offs = [this.on('event', (event) => { queue.push(event); wake(); }), this.on('connection', () => wake())];
    try {
      for (;;) {
        const events = queue;
        queue = [];
        yield* events;
        if (queue.length) continue;
        const c = this._connection;
        if (c.state === 'closed' || c.state === 'ended') return;
        if (c.state === 'refused') throw new RefusedError(c.status, c.reason);
        await new Promise<void>((resolve) => { wake = resolve; });
      }
    } finally {
      for (const off of offs) off();
    }
  }

  // ------------------------------------------------------------ what tabs that share a stream do otherwise

  /** @internal */
  _begin(): void { this._changed(); }

  /** @internal */
  _restart(): void {
    if (!this._current) this._connect();
  }

  /** @internal */
  _stop(): void {
    for (const link of [this._current, this._next]) link?._abort.abort();
    this._current = this._next = null;
    this._host.clearTimeout(this.#timer);
    this._host.clearTimeout(this.#batch);
    this.#timer = this.#batch = undefined;
    for (const part of this._parts.values()) this._host.clearTimeout(part._timer);
  }

  /** @internal */
  _need(): Need { return { ids: [...this._own], graph: !!this.#options.graph, list: !!this.#options.list }; }

  /** Something was taken over into the state. @internal */
  _took(_event: string, _data: unknown): void {}

  /** A shared stream has not brought what follows. @internal */
  _missed(_id: string): void {}

  /** @internal */
  _drop(id: string): void {
    this._host.clearTimeout(this._parts.get(id)?._timer);
    this._parts.delete(id);
  }

  // ------------------------------------------------------------ connecting

  /** @internal */
  _part(id: string): Part {
    let part = this._parts.get(id);
    if (!part) {
      part = { _state: unknownState(id), _admitted: false, _resync: false, _failures: 0, _timer: undefined };
      this._parts.set(id, part);
    }
    return part;
  }

  /** What is needed and can be had. */
  #wanted(): Need & { key: string } {
    const need = this._need();
    const ids = need.ids.filter((id) => !['deleted', 'refused'].includes(this._part(id)._state.part)).sort();
    return { ...need, ids, key: JSON.stringify([ids, need.graph, need.list]) };
  }

  /** Called when what is needed may have changed. Changes of one turn make one new stream. @internal */
  _changed(): void {
    if (!this._started || this.#batch !== undefined) return;
    this.#batch = this._host.setTimeout(() => {
      this.#batch = undefined;
      if (this._next || this._connection.state === 'refused') return; // seen to when it is opened
      const { _current: link } = this;
      if (link ? link._stale || link._key !== this.#wanted().key : this.#timer === undefined) this._connect();
    }, 0);
  }

  #online = (): void => {
    if (this._connection.state === 'waiting') this._restart();
  };

  /** @internal */
  _connect = (): void => {
    this._host.clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this._started || !this._active || this._next || this._connection.state === 'closed') return;
    const { ids, key, graph, list } = this.#wanted();
    if (!ids.length && !list) {
      this._current?._abort.abort();
      this._current = null;
      this._setConnection({ state: this._own.size ? 'ended' : 'idle' });
      return;
    }
    const link = newLink(key);
    for (const id of ids) {
      const part = this._part(id);
      const { seq, graph: has } = part._state;
      // Where a new snapshot is needed, the old stream's events count no longer: it would take the state backwards.
      part._resync ||= seq !== null && graph && !has;
      link._cursors.set(id, part._resync ? null : seq);
      if (seq !== null) link._first.set(id, seq);
    }
    this._next = link;
    if (!this._current) this._setConnection({ state: 'connecting' });
    const topologies = Object.fromEntries(link._cursors);
    void this.#run(link, JSON.stringify({ topologies, ...(graph && { graph }), ...(list && { list }) }));
  };

  async #run(link: Link, body: string): Promise<void> {
    const { getToken, credentials, keepalive = 15 * second } = this.#options;
    const host = this._host;
    const { signal } = link._abort;
    const silence = 3 * keepalive;
    let status = 0;
    let retryAfter = 0;
    let silent = false;
    let timer: unknown;
    const watch = (): void => {
      const left = link._lastByte + silence - host.now();
      silent = left <= 0;
      if (silent) link._abort.abort();
      else timer = host.setTimeout(watch, left);
    };
    const impatient = host.setTimeout(() => {
      if (link !== this._next || !this._current) return;
      this._current._abort.abort();
      this._current = null;
      this._setConnection({ state: 'connecting' });
    }, handover);
    link._lastByte = host.now();
    watch();
    try {
      link._token = (await untilAborted(getToken?.(this.#rejected), signal)) ?? undefined;
      const headers: Record<string, string> = { 'Content-Type': 'application/json' };
      if (link._token) headers.Authorization = `Bearer ${link._token}`;
      const response = await host.fetch(this.#url, {
        method: 'POST', headers, body, signal, cache: 'no-store', ...(credentials && { credentials }),
      });
      link._lastByte = host.now();
      status = response.status;
      const stream = response.headers.get('Content-Type')?.startsWith('text/event-stream');
      if (status === 200 && stream && response.body) {
        this.#opened(link);
        const parse = parser((frame) => this.#frame(link, frame), (ms) => { this.#retry = ms; });
        const reader = response.body.getReader();
        for (let read; !(read = await reader.read()).done && !signal.aborted; ) {
          link._lastByte = host.now();
          parse(read.value);
          this._flush();
        }
        link._problem ||= 'the stream has ended';
      } else {
        retryAfter = delayOf(response.headers.get('Retry-After'));
        link._problem = `HTTP ${status}`;
        const problem = (await response.json().catch(() => ({}))) as { detail?: string; title?: string };
        link._problem = problem?.detail ?? problem?.title ?? link._problem;
      }
    } catch (error) {
      if (signal.aborted && silent) link._problem = `nothing came for ${silence / second} s`;
      else link._problem ||= String((error as Error)?.message ?? error);
    }
    host.clearTimeout(timer);
    host.clearTimeout(impatient);
    // What was aborted is nobody's any more, unless it was for its silence or for what it sent.
    if (link === this._current || link === this._next) this.#ended(link, status, retryAfter);
    link._abort.abort(); // a body that nobody reads holds its connection
  }

  #opened(link: Link): void {
    if (link !== this._next) return;
    this._current?._abort.abort();
    this._current = link;
    this._next = null;
    link._opened = this._host.now();
    this.#asked = false;
    this.#rejected = undefined;
    for (const id of link._cursors.keys()) {
      const part = this._parts.get(id);
      if (!part) continue;
      part._admitted = true;
      this._host.clearTimeout(part._timer);
      part._timer = undefined;
      if (part._state.part === 'unavailable') this.#set(part, { ...part._state, part: 'waiting', problem: null });
    }
    this._setConnection({ state: 'open' });
    this._changed(); // what was added or removed meanwhile
  }

  /** Decides what follows the end of a stream, or of an attempt at one. */
  #ended(link: Link, status: number, retryAfter: number): void {
    const attempt = link === this._next;
    if (attempt) this._next = null;
    else this._current = null;
    if (link._expired) this.#rejected = link._token;
    if (attempt && status === 401 && this.#options.getToken && !this.#asked) {
      this.#asked = true;
      this.#rejected = link._token;
      this._connect();
      return;
    }
    if (attempt && status >= 400 && status < 500 && ![408, 425, 429].includes(status)) {
      const fresh = [...link._cursors.keys()].filter((id) => !this._parts.get(id)?._admitted);
      // The token holds for what was admitted before, so it is what was added that it does not hold for.
      if (status === 403 && fresh.length && fresh.length < link._cursors.size) {
        for (const id of fresh) {
          const part = this._part(id);
          this.#set(part, { ...part._state, part: 'refused', problem: link._problem });
        }
        this._flush();
        this._connect();
        return;
      }
      if (!this._current) {
        this._setConnection({ state: 'refused', status, reason: link._problem });
        return;
      }
    }
    if (this._next) { // it is under way already
      this._setConnection({ state: 'connecting' });
      return;
    }
    if (!attempt && !this.#wanted().ids.length && !this.#wanted().list) { // the last topology was deleted
      this._connect();
      return;
    }
    const lived = link._opened !== null && this._host.now() - link._opened > 15 * second;
    this.#failures = link._heard || lived ? 0 : this.#failures + 1;
    const pause = link._expired && link._heard ? 0 : this.#pause(this.#failures);
    const retry_in = Math.max(pause, retryAfter);
    if (!this._current) this._setConnection({ state: 'waiting', reason: link._problem, retry_in });
    this.#timer = this._host.setTimeout(this._connect, retry_in);
  }

  /** The server draws its reconnection time for each stream; what comes after that is ours to spread. */
  #pause(failures: number): number {
    if (!failures) return this.#retry;
    const longest = Math.max(longestDelay, this.#retry);
    return Math.min(longest, this.#retry * 2 ** (failures - 1)) * (0.75 + this._host.random() / 2);
  }

  // ------------------------------------------------------------ receiving

  #frame(link: Link, frame: { event: string; data: string; id: string | null }): void {
    if (link._abort.signal.aborted) return;
    let data: unknown;
    try {
      data = JSON.parse(frame.data);
      this._receive(link, frame.event, data as Wire, frame.id);
    } catch (error) {
      if (!(error instanceof SyntaxError || error instanceof TypeError)) throw error;
      this._violated('malformed', null, null, null);
      link._problem = `malformed: ${error.message}`;
      link._heard = false;
      this.#fail(link);
    }
  }

  /** Ends a stream that cannot be believed, and goes on with another. */
  #fail(link: Link): void {
    link._abort.abort();
    if (link === this._current) this.#ended(link, 0, 0);
  }

  /** @internal */
  _receive(link: Link, event: string, data: Wire, id: string | null): void {
    switch (event) {
      case 'list':
      case 'topology':
      case 'removed':
        link._heard = true;
        this.#listFrame(link, event, data);
        return;
      case 'token_expired':
        link._expired = true;
        link._problem = 'the token has expired';
        this._emit('event', { kind: 'notice', type: event, topology_id: null, payload: data.payload ?? {} });
        return;
      case 'unavailable':
        this.#unavailable(link, data);
        return;
      case 'snapshot':
        link._heard = true;
        this.#takeSnapshot(link, data as unknown as SharedSnapshot, data);
        return;
      default:
        link._heard = true;
        this.#takeEvent(link, event, data, id);
    }
  }

  #unavailable(link: Link, data: Wire): void {
    const payload = data.payload as { topology_id?: string; reason?: string };
    const id = payload.topology_id?.toLowerCase();
    const part = id === undefined ? undefined : this._parts.get(id);
    if (id === undefined) link._problem = payload.reason ?? 'unavailable';
    if (id !== undefined && !part) return;
    if (part) {
      this.#set(part, { ...part._state, part: 'unavailable', problem: payload.reason ?? null });
      if (!link._shared) this.#askAgain(part);
      this._took('unavailable', data);
    }
    this._tell(id, { kind: 'notice', type: 'unavailable', topology_id: id ?? null, payload });
  }

  /** Asks for one topology again, by and by, on a new stream for all. */
  #askAgain(part: Part): void {
    this._host.clearTimeout(part._timer);
    part._timer = this._host.setTimeout(() => {
      part._timer = undefined;
      if (this._current) this._current._stale = true;
      this._changed();
    }, this.#pause(part._failures++));
  }

  #takeSnapshot(link: Link, s: SharedSnapshot, data: unknown): void {
    const part = this._parts.get(s.topology_id);
    if (!part) return;
    if (!Number.isSafeInteger(s.seq)) {
      this.#broken(part, 'malformed', null, null);
      return;
    }
    const { seq } = part._state;
    const at = link._cursors.get(s.topology_id) ?? null;
    const least = link._shared ? null : at ?? (part._resync ? seq : null);
    link._cursors.set(s.topology_id, s.seq);
    link._first.set(s.topology_id, s.seq);
    if (least !== null && s.seq < least) this.#broken(part, 'back', least, s.seq);
    else if (!part._resync && seq !== null && s.seq < seq) return; // another stream was further already
    part._resync = false;
    this.#set(part, afterSnapshot(part._state, s));
    this._took('snapshot', data);
    this._tell(s.topology_id, {
      kind: 'snapshot', type: 'snapshot', topology_id: s.topology_id, seq: s.seq, payload: s,
    });
  }

  #takeEvent(link: Link, type: string, data: Wire, frameId: string | null): void {
    const id = /^topology\.([^.]+)/.exec(data.topic ?? '')?.[1] ?? data.payload?.topology_id ?? '';
    const part = this._parts.get(id);
    if (!part) return; // removed, and the stream is about to be another
    const { seq = null, ts = '', payload = null } = data;
    if (!data.journaled) {
      this._took(type, data);
      if (type === 'deleted') {
        this.#set(part, { ...part._state, part: 'deleted' });
        this._tell(id, { kind: 'notice', type, topology_id: id, payload: {} });
      } else {
        this._tell(id, { kind: 'raw', type, topology_id: id, ts, payload });
      }
      return;
    }
    const last = part._state.seq;
    if (seq === null || !Number.isSafeInteger(seq) || (frameId !== null && frameId !== String(seq))) {
      this.#broken(part, 'malformed', last === null ? null : last + 1, seq);
      this.#resync(link, part);
      return;
    }
    if (!link._shared && !this.#follows(link, part, id, seq)) return;
    if (part._resync || (last !== null && seq <= last)) return; // the latter: another stream was first
    if (last === null || seq > last + 1) {
      if (!link._shared) {
        this.#broken(part, 'hole', last === null ? null : last + 1, seq);
        this.#resync(link, part);
      }
      this._missed(id);
      return;
    }
    part._failures = 0;
    this.#set(part, afterEvent(part._state, { type, seq, ts, payload }));
    this._took(type, data);
    this._tell(id, { kind: 'event', type, topology_id: id, seq, ts, payload } as StreamEvent<E>);
  }

  /** Whether a number is the one that has to come next on this stream. */
  #follows(link: Link, part: Part, id: string, seq: number): boolean {
    const at = link._cursors.get(id) ?? null;
    if (at !== null && seq === at + 1) {
      link._cursors.set(id, seq);
      return true;
    }
    if (at !== null && seq <= at) {
      this.#broken(part, seq > (link._first.get(id) ?? at) || seq === at ? 'double' : 'order', at + 1, seq);
      return false;
    }
    link._cursors.set(id, seq);
    link._first.set(id, seq - 1);
    this.#broken(part, 'hole', at === null ? null : at + 1, seq);
    this.#resync(link, part);
    return false;
  }

  #resync(link: Link, part: Part): void {
    if (link._shared) return;
    part._resync = true;
    this.#set(part, { ...part._state, part: 'waiting' });
    if (part._timer === undefined) this.#askAgain(part);
  }

  #listFrame(link: Link, event: 'list' | 'topology' | 'removed', data: Wire): void {
    const rows = (this._rows ??= new Map());
    if (event === 'list') {
      link._rows.push(...(data.data ?? []));
      if (!data.more) {
        // Whoever reconnects gets it all again. A server that is behind must take no row back.
        const newer = (row: Summary): Summary => {
          const old = rows.get(row.id);
          return old && old.seq > row.seq ? old : row;
        };
        this._rows = new Map(link._rows.map((row) => [row.id, newer(row)]));
        link._rows = [];
        this._took('list', { data: [...this._rows.values()], more: false });
      } else if (!rows.size) {
        this._rows = null; // not all of it yet
      }
    } else if (event === 'topology') {
      const row = data as unknown as Summary;
      const old = rows.get(row.id);
      if (old && old.seq > row.seq) return;
      rows.set(row.id, row);
      this._took(event, data);
    } else {
      rows.delete((data as unknown as { id: string }).id);
      this._took(event, data);
    }
    this.#list = null;
    this._touch();
    if (this.#options.list) this._emit('event', { kind: 'list', type: event, payload: data } as unknown as StreamEvent<E>);
  }

  // ------------------------------------------------------------ telling

  #set(part: Part, state: TopologyState): void {
    part._state = state;
    if (!this._own.has(state.id)) return;
    this.#record = null;
    this._touch();
  }

  #broken(part: Part, kind: Violation['kind'], expected: number | null, got: number | null): void {
    const { id } = part._state;
    this._violated(kind, id, expected, got);
    this.#set(part, { ...part._state, broken: { kind, topology_id: id, expected, got } });
  }

  /** @internal */
  _violated(kind: Violation['kind'], topology_id: string | null, expected: number | null, got: number | null): void {
    if (topology_id === null || this._own.has(topology_id)) {
      this._emit('violation', { kind, topology_id, expected, got });
    }
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
    this.#snapshot = null;
    this.#dirty = true;
  }

  /** Tells subscribers once of what a chunk of bytes has changed. @internal */
  _flush(): void {
    if (!this.#dirty) return;
    this.#dirty = false;
    for (const subscriber of [...this.#subscribers]) attempt(subscriber, undefined);
  }

  _tell(id: string | undefined, event: StreamEvent<E>): void {
    if (id === undefined || this._own.has(id)) this._emit('event', event);
  }

  /** @internal */
  _emit<K extends keyof Listeners<E>>(name: K, value: Parameters<Listeners<E>[K]>[0]): void {
    for (const listener of [...(this.#listeners[name] as Set<unknown>)]) {
      attempt(listener as (value: unknown) => void, value);
    }
  }
}

/** The data of a frame, as far as frames have fields in common. @internal */
export interface Wire {
  topic?: string;
  seq?: number;
  ts?: string;
  journaled?: boolean;
  payload?: { topology_id?: string; reason?: string } & Partial<Graph>;
  data?: Summary[];
  more?: boolean;
}

export function newLink(key: string): Link {
  return {
    _abort: new AbortController(), _key: key, _stale: false, _cursors: new Map(), _first: new Map(), _rows: [],
    _token: undefined, _heard: false, _expired: false, _problem: '', _opened: null, _lastByte: 0, _shared: false,
  };
}

/** A listener that throws is its owner's error, and stops nobody else. */
function attempt<T>(listener: (value: T) => void, value: T): void {
  try {
    listener(value);
  } catch (error) {
    queueMicrotask(() => { throw error; });
  }
}

/** Milliseconds of a Retry-After (RFC 9110, section 10.2.3): seconds or a date; 0 for anything else. */
function delayOf(header: string | null): number {
  if (!header) return 0;
  return Math.max(0, (/^\d+$/.test(header) ? +header * second : Date.parse(header) - Date.now()) || 0);
}

/** A getToken that never answers must not outlive its stream. */
function untilAborted<T>(value: T | Promise<T>, signal: AbortSignal): Promise<T> {
  return Promise.race([value, new Promise<never>((_, reject) => {
    const give = (): void => reject(new Error('aborted'));
    if (signal.aborted) give();
    else signal.addEventListener('abort', give, { once: true });
  })]);
}
