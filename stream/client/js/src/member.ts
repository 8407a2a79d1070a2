// One tab among those that share. Its own client asks here instead of the server, and the tab that leads answers.
import type { Host } from './host.ts';
import {
  bytesOf, lead, textOf, type Asked, type Body, type Feed, type Frame, type Leader, type Message, type StreamOptions,
  type Told,
} from './leader.ts';
import type { Connection, StreamState, Tabs } from './types.ts';

export interface Member {
  /** As fetch: the client asks for its stream. */
  _fetch: (input: string, init: RequestInit) => Promise<Response>;
  /** The state of the leader's own stream while that is not open. */
  _connection: () => Connection | undefined;
  _tabs: () => Tabs;
  _again: () => void;
  _leave: () => void;
}

/** A stream that the client has asked for. */
interface Pipe {
  readonly _body: Body;
  readonly _started: Set<string>; // topologies that the leader has brought to where it is itself
  _list?: boolean | undefined; // the list has begun
  _open?: boolean;
  readonly _write: (text: string) => void;
  /** Answers the client's request: with a refusal, or else with the stream, which has opened. */
  readonly _answer: (refusal?: Told) => void;
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
  const name = `topostream 1 ${url} ${shared && share}`;
  const pipes = new Map<string, Pipe>();
  const feeds = new Map<string, Feed>();
  const present = new Set<string>(); // the other tabs that have answered since the last roll call
  let channel: BroadcastChannel | undefined;
  let leave!: () => void;
  const left = new Promise<void>((resolve) => { leave = resolve; });
  let gone = false;
  let leader: Leader | undefined;
  let generation = 0; // of the newest leader that this tab knows of
  let connection: Connection | undefined; // of the leader
  let missed = 0; // beats
  let requests = 0;
  let count = shared ? null : 1;
  let problem: string | null = null;
  let timer: unknown;

  /** To the other tabs and to this one. */
  const send = (message: Message): void => {
    channel?.postMessage(message);
    receive(message);
  };

  /** Keeps what came, for those that this tab may lead one day. */
  const note = (frame: Frame, told: boolean): void => {
    const { id, seq, event } = frame;
    if (!id || !seq) return;
    const feed = feeds.get(id);
    const head = feed?._head ?? -1;
    const snapshot = event === 'snapshot';
    if (seq > head + 1 || snapshot && (told || seq > head)) {
      feeds.set(id, { _head: seq, _ring: snapshot ? [] : [frame] });
    } else if (seq > head) {
      feed!._head = seq;
      if (feed!._ring.push(frame) > kept) feed!._ring.shift();
    }
  };

  const write = (pipe: Pipe, { event, id, seq, data }: Frame): void => {
    const { lans, deckies, edges, ...rest } = (data ?? {}) as Record<string, unknown>;
    const snapshot = event === 'snapshot';
    if (id && !snapshot && seq! <= pipe._body.topologies[id]!) return; // it was ahead of a leader that is new
    pipe._write(textOf({ event, data: snapshot && !pipe._body.graph ? rest : data }));
  };

  /** Another leader has begun, and what older ones say no longer counts: what they had not begun is asked of it. */
  const follow = (newest: number): void => {
    generation = newest;
    if (leader && leader._generation !== newest) resign();
    for (const [key, pipe] of pipes) {
      if (pipe._open || pipe._started.size) pipe._end();
      else send({ type: 'want', key, body: pipe._body });
    }
  };

  const receive = (message: Message): void => {
    if ('generation' in message) {
      if (message.generation < generation) return;
      if (message.generation > generation) follow(message.generation);
      take(message);
    } else if (message.type === 'who' || message.type === 'here') {
      if (message.type === 'who') call('here');
      present.add(message.tab);
    } else leader?._receive(message as Asked);
  };

  const take = (told: Told): void => {
    const { key, connection: now, frames = [], ids = [], list, open, status } = told;
    for (const frame of frames) note(frame, !key);
    for (const [k, pipe] of pipes) {
      if (now) pipe._write(':\n\n'); // the leader is not silent, so neither is the stream
      if (key && key !== k) continue;
      for (const frame of frames) {
        if (key || (frame.id ? pipe._started.has(frame.id) : pipe._list)) write(pipe, frame);
      }
      for (const id of ids) pipe._started.add(id);
      pipe._list ||= list;
      if (status) pipe._open ? pipe._end() : pipe._answer(told);
      else if (open) {
        pipe._open = true;
        pipe._write('retry: 2000\n\n');
        pipe._answer();
      }
    }
    if (!now) return;
    missed = 0;
    if (now.state === connection?.state) return;
    connection = now;
    changed();
  };

  // ---------------------------------------------------------- leading

  const resign = (): void => {
    leader?._stop();
    leader = undefined;
    changed();
  };

  /** Waits for its turn to lead, or takes it: a leader that is frozen holds the lock, and does nothing. */
  const claim = (steal: boolean): void => {
    let mine: Leader | undefined;
    locks!.request(name, { steal }, () => {
      if (gone) return undefined;
      resign();
      const next = Math.max(generation + 1, Date.now());
      mine = leader = lead(host, options, next, feeds, getSnapshot, send, (key, over) => {
        void locks!.request(`${name} ${key}`, over);
      });
      leader._beat(); // and all ask it anew
      changed();
      return left;
    }).catch(() => { // another has stolen it
      if (leader === mine) resign();
      if (!gone && !steal) claim(false); // a tab that stole still waits for its turn by an earlier claim
    });
  };

  // ---------------------------------------------------------- being one of several

  const call = (type: 'who' | 'here'): void => channel!.postMessage({ type, tab: me } satisfies Message);

  const tick = (): void => {
    timer = host.setTimeout(tick, second);
    if (!shared) {
      count = present.size + 1;
      problem = count < 5 ? null : `${count} tabs, a stream each: HTTP/1.1 has six connections. `
        + 'HTTPS lets tabs share one; HTTP/2 has no limit.';
      present.clear();
      call('who');
      changed();
    } else if (leader) {
      leader._beat();
    } else if (++missed === 3) { // a hidden page may send its beats late, but it answers within a second
      send({ type: 'ask' });
    } else if (missed > 4) {
      missed = 0;
      claim(true);
    }
  };

  return {
    _tabs: () => ({ role: leader ? 'leads' : shared ? 'follows' : 'alone', count, problem }),
    _connection: () => [...pipes.values()].some((pipe) => pipe._open)
      && /waiting|connecting/.test(connection?.state ?? '') ? connection : undefined,
    _again: () => {
      if (shared) send({ type: 'again' });
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
      if (!channel && Channel && !gone) {
        channel = new Channel(name);
        channel.onmessage = ({ data }) => receive(data as Message);
        timer = host.setTimeout(tick, second);
        if (shared) claim(false);
        else call('who');
      }
      if (!shared) return host.fetch(input, init);
      const { signal } = init;
      return new Promise((resolve, reject) => {
        const key = `${me} ${++requests}`;
        let controller!: ReadableStreamDefaultController<Uint8Array>;
        const body = new ReadableStream<Uint8Array>({ start: (c) => { controller = c; } });
        const pipe: Pipe = {
          _body: JSON.parse(init.body as string) as Body,
          _started: new Set(),
          _write: (text) => controller.enqueue(bytesOf(text)),
          _answer: (refusal) => {
            if (!refusal) {
              return resolve(new Response(body, { headers: { 'Content-Type': 'text/event-stream' } }));
            }
            pipes.delete(key);
            const { status = 0, reason } = refusal;
            // It may be another tab's topology that the token does not hold for: the server says whose.
            resolve(status === 403 ? host.fetch(input, init) : Response.json({ detail: reason }, { status }));
          },
          _end: () => {
            pipe._write('retry: 100\n\n');
            pipes.delete(key);
            controller.close();
            reject('no leader');
          },
        };
        // Whoever gets this lock knows that the request is over, also when the tab is no more.
        void locks!.request(`${name} ${key}`, () => signal!.aborted ? reject() : new Promise<void>((over) => {
          pipes.set(key, pipe);
          signal!.addEventListener('abort', () => { // the client does so at each stream's end
            over();
            pipes.delete(key);
            controller.error(signal!.reason);
            reject(signal!.reason as Error);
          });
          send({ type: 'want', key, body: pipe._body });
        }));
      });
    },
  };
}
