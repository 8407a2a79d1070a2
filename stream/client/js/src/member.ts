// One tab among those that share. Its own client asks here instead of the server, and the tab that leads answers.
import type { Host } from './host.ts';
import { lead, type Body, type Feed, type Frame, type Leader, type Message, type StreamOptions, type Told } from './leader.ts';
import type { Connection, StreamState, Tabs } from './types.ts';

export interface Member {
  /** As fetch: the client asks for its stream. */
  _fetch: (input: string, init: RequestInit) => Promise<Response>;
  /** How the leader's stream fares, if not well. */
  _connection: () => Connection | undefined;
  _tabs: () => Tabs;
  _again: () => void;
  _leave: () => void;
}

/** A stream that the client has asked for. */
interface Pipe {
  readonly _body: Body;
  readonly _started: Set<string>; // topologies that the leader has brought to where it is itself
  _list?: boolean; // the list has begun
  _open?: boolean;
  readonly _write: (text: string) => void;
  /** With an answer, or because the stream has opened. */
  readonly _answer: (refusal?: { status: number; reason: string }) => void;
  readonly _end: () => void;
}

const second = 1000;
/** How many events of a topology a tab keeps for those that resume behind it. */
const kept = 500;

export function member(
  host: Host, options: StreamOptions, share: string, getSnapshot: () => StreamState, changed: () => void,
): Member {
  const { url = '' } = options;
  const { locks } = host.navigator ?? {};
  const Channel = host.BroadcastChannel;
  const shared = !!(locks && Channel);
  const me = host.Math.random().toString(36).slice(2);
  // The number is that of the messages: pages of another version of this client share among themselves.
  const name = shared ? `topostream 1 ${url} ${share}` : `topostream 1 ${url}`;
  const pipes = new Map<string, Pipe>();
  const feeds = new Map<string, Feed>();
  const heard = new Set<string>(); // tabs, since the last roll call
  let channel: BroadcastChannel | undefined;
  let joined: Promise<unknown> | undefined;
  let leave!: () => void;
  const left = new Promise<void>((resolve) => { leave = resolve; });
  let gone = false;
  let leader: Leader | undefined;
  let generation = 0; // the newest heard of
  let connection: Connection | undefined; // of the leader
  let missed = 0; // beats
  let requests = 0;
  let count = 1;
  let tabs: Tabs = { role: shared ? 'follows' : 'alone', count: shared ? null : 1, problem: null };
  let timer: unknown;

  const setTabs = (change: Partial<Tabs>): void => {
    tabs = { ...tabs, ...change };
    changed();
  };

  /** To the other tabs and to this one. */
  const send = (message: Message): void => {
    channel?.postMessage(message);
    hear(message);
  };

  /** Keeps what came, for those that this tab may lead one day. */
  const note = (frame: Frame, told: boolean): void => {
    const { id, seq, event } = frame;
    if (!id || !seq) return;
    const feed = feeds.get(id);
    if (event === 'snapshot' ? told || !feed || seq > feed._head : !feed || seq > feed._head + 1) {
      feeds.set(id, { _head: seq, _ring: event === 'snapshot' ? [] : [frame] });
    } else if (seq === feed!._head + 1) {
      feed!._head = seq;
      if (feed!._ring.push(frame) > kept) feed!._ring.shift();
    }
  };

  const write = (pipe: Pipe, frames: Frame[], started?: boolean): void => {
    for (const { event, id, seq, data } of frames) {
      if (!started && !(id ? pipe._started.has(id) : pipe._list)) continue;
      const snapshot = event === 'snapshot';
      if (id && !snapshot && seq! <= pipe._body.topologies[id]!) continue; // it was ahead of a leader that is new
      const { lans, deckies, edges, ...rest } = (data ?? {}) as Record<string, unknown>;
      pipe._write(`event: ${event}\ndata: ${JSON.stringify(snapshot && !pipe._body.graph ? rest : data)}\n\n`);
    }
  };

  /** Nothing counts that an older leader says. */
  const follow = (newest: number): void => {
    generation = newest;
    if (leader && leader._generation !== newest) resign();
    for (const [key, pipe] of pipes) {
      if (pipe._open || pipe._started.size) pipe._end();
      else send({ to: 'leader', type: 'want', key, tab: me, body: pipe._body });
    }
  };

  const hear = (message: Message): void => {
    if (message.to === 'all') {
      if (message.type === 'who') channel!.postMessage({ to: 'all', type: 'here', tab: me } satisfies Message);
      heard.add(message.tab);
      recount();
    } else if (message.to === 'leader') {
      leader?._hear(message);
    } else if (message.generation >= generation) {
      if (message.generation > generation) follow(message.generation);
      missed = 0;
      take(message);
    }
  };

  const take = (told: Told): void => {
    const pipe = pipes.get(told.key!);
    if (told.type === 'beat') {
      for (const each of pipes.values()) each._write(':\n\n');
      if (JSON.stringify(connection) === JSON.stringify(told.connection)) return;
      connection = told.connection;
      changed();
    } else if (told.type === 'frame') {
      note(told.frame, true);
      for (const each of pipes.values()) write(each, [told.frame]);
    } else if (told.type === 'start' && pipe) {
      for (const frame of told.frames) note(frame, false);
      write(pipe, told.frames, true);
      for (const id of told.ids) pipe._started.add(id);
      pipe._list ||= told.list;
      if (told.open && !pipe._open) {
        pipe._open = true;
        pipe._write('retry: 2000\n\n');
        pipe._answer();
      }
    } else if (told.type === 'refuse' && pipe) {
      if (pipe._open) pipe._end();
      else pipe._answer(told);
    }
  };

  // ---------------------------------------------------------- leading

  const resign = (): void => {
    leader?._stop();
    leader = undefined;
    if (!gone) setTabs({ role: 'follows' });
  };

  /** Waits for its turn to lead, or takes it: a leader that is frozen holds the lock, and does nothing. */
  const claim = (steal: boolean): void => {
    let mine: Leader | undefined;
    locks!.request(name, { steal }, () => {
      if (gone) return undefined;
      resign();
      const next = Math.max(generation + 1, Date.now());
      mine = leader = lead(host, options, next, feeds, getSnapshot, send, (tab, died) => {
        void locks!.request(`${name} ${tab}`, died);
      });
      setTabs({ role: 'leads' });
      follow(next);
      leader._beat();
      return left;
    }).catch(() => { // another has stolen it
      if (leader === mine) resign();
      if (!gone && !steal) claim(false); // who steals is waiting for its turn, too
    });
  };

  // ---------------------------------------------------------- being one of several

  const recount = (exactly = false): void => {
    const now = heard.size + 1;
    if (now === count || now < count && !exactly) return;
    count = now;
    setTabs({
      count,
      problem: count < 5 ? null : `${count} tabs have a stream each, and a browser opens six connections to a server `
        + 'over HTTP/1.1: serve the page by HTTPS, then tabs share one stream, and HTTP/2 has no such limit',
    });
  };

  let ticks = 0;
  const tick = (): void => {
    timer = host.setTimeout(tick, second);
    ticks++;
    if (!shared) {
      if (ticks % 5) return;
      recount(true);
      heard.clear();
      channel!.postMessage({ to: 'all', type: 'who', tab: me } satisfies Message);
    } else if (leader) {
      leader._beat();
    } else if (++missed === 4) { // a timer of a hidden page may be late, its messages are not
      send({ to: 'leader', type: 'ask' });
    } else if (missed > 4) {
      missed = 0;
      claim(true);
    }
  };

  const join = (): Promise<unknown> => joined ??= new Promise<void>((ready) => {
    if (gone || !Channel) return ready();
    channel = new Channel(name);
    channel.onmessage = ({ data }) => hear(data as Message);
    (channel as { unref?: () => void }).unref?.(); // of Node
    timer = host.setTimeout(tick, second);
    if (!shared) {
      channel.postMessage({ to: 'all', type: 'who', tab: me } satisfies Message);
      return ready();
    }
    // Whoever gets this lock knows that the tab is no more.
    void locks.request(`${name} ${me}`, () => {
      ready();
      claim(false);
      return left;
    });
  });

  return {
    _tabs: () => tabs,
    _connection: () => [...pipes.values()].some((pipe) => pipe._open)
      && /waiting|connecting/.test(connection?.state ?? '') ? connection : undefined,
    _again: () => {
      if (joined && shared) send({ to: 'leader', type: 'again' });
    },
    _leave: () => {
      gone = true;
      host.clearTimeout(timer);
      resign();
      leave();
      channel?.close();
      channel = undefined;
    },
    _fetch: async (input, init) => {
      await join();
      if (!shared) return host.fetch(input, init);
      return new Promise((resolve, reject) => {
        const key = `${me} ${++requests}`;
        const { signal } = init;
        let controller!: ReadableStreamDefaultController<Uint8Array>;
        const body = new ReadableStream<Uint8Array>({ start: (c) => { controller = c; } });
        const encoder = new TextEncoder();
        const forget = (): void => {
          pipes.delete(key);
          signal!.removeEventListener('abort', aborted);
          if (!gone) send({ to: 'leader', type: 'bye', key });
        };
        const aborted = (): void => {
          if (!pipes.has(key)) return;
          forget();
          controller.error(signal!.reason);
          reject(signal!.reason as Error);
        };
        const pipe: Pipe = {
          _body: JSON.parse(init.body as string) as Body,
          _started: new Set(),
          _write: (text) => controller.enqueue(encoder.encode(text)),
          _answer: (refusal) => {
            if (!refusal) {
              return resolve(new Response(body, { headers: { 'Content-Type': 'text/event-stream' } }));
            }
            forget();
            const { status, reason } = refusal;
            // It may be another tab's topology that the token does not hold for: the server says whose.
            resolve(status === 403 ? host.fetch(input, init) : new Response(JSON.stringify({ detail: reason }), { status }));
          },
          _end: () => {
            pipe._write('retry: 100\n\n');
            controller.close();
            forget();
            reject(new Error('another tab leads'));
          },
        };
        signal!.addEventListener('abort', aborted);
        pipes.set(key, pipe);
        if (signal!.aborted) aborted();
        else send({ to: 'leader', type: 'want', key, tab: me, body: pipe._body });
      });
    },
  };
}
