// A small server that speaks the frames of the many-stream over real sockets, and breaks as told.
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Host } from '../src/host.ts';

export interface Event { seq: number; type: string; payload: unknown }
export interface Topology {
  id: string; first: number; events: Event[]; document: Record<string, unknown>; row: Record<string, unknown>;
}
export interface Request { token: string | undefined; headers: IncomingMessage['headers']; body: Body }
interface Body { topologies: Record<string, number | null>; graph?: boolean; list?: boolean }

export const uuid = (n: number): string => `00000000-0000-4000-8000-${String(n).padStart(12, '0')}`;
export const epoch = 500 * 2 ** 32;

export class Stream {
  constructor(readonly response: ServerResponse, readonly body: Body) {}
  get open(): boolean { return !this.response.destroyed && !this.response.writableEnded; }
  write(text: string): void { if (this.open) this.response.write(text); }
  frame(event: string, data: unknown, id?: number): void {
    this.write(`event: ${event}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`);
  }
  event(id: string, e: Event): void {
    this.frame(e.type, {
      topic: `topology.${id}.${e.type}`, type: e.type, ts: '2026-11-23T19:30:00.123456Z', seq: e.seq, journaled: true,
      payload: e.payload,
    }, e.seq);
  }
  notice(type: string, payload: unknown, id = ''): void {
    this.frame(type, { topic: `topology.${id}.${type}`, type, ts: '', journaled: false, payload });
  }
  end(): void { this.response.end(); }
  cut(): void { this.response.socket?.destroy(); }
}

export class FakeServer {
  readonly topologies = new Map<string, Topology>();
  readonly requests: Request[] = [];
  readonly streams: Stream[] = [];
  /** What answers the next requests instead, one each. Whoever gives false has not answered. */
  readonly next: ((request: Request, response: ServerResponse) => boolean | void)[] = [];
  retry = 2000;
  #server!: Server;
  url = '';

  static async start(): Promise<FakeServer> {
    const fake = new FakeServer();
    fake.#server = createServer((request, response) => void fake.#answer(request, response));
    await fake.listen(0);
    return fake;
  }

  async listen(port: number): Promise<void> {
    await new Promise<void>((resolve) => this.#server.listen(port, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  async stop(): Promise<void> {
    for (const stream of this.streams) stream.cut();
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  /** The newest stream that is open. */
  get live(): Stream | undefined { return this.streams.filter((s) => s.open).at(-1); }
  get open(): Stream[] { return this.streams.filter((s) => s.open); }

  add(n: number, document: Record<string, unknown> = {}): string {
    const id = uuid(n);
    this.topologies.set(id, {
      id, first: epoch + 1, events: [{ seq: epoch + 1, type: 'status', payload: { state: 'pending', reason: null } }],
      document: { status: 'active', reason: null, version: 0, in_flight: [], in_flight_total: 0, ...document },
      row: { id, name: `t${n}`, status: 'active', reason: null, version: 0, in_flight: 0 },
    });
    return id;
  }

  head(id: string): number { return this.topologies.get(id)!.events.at(-1)!.seq; }

  /** Records an event and sends it to whoever follows the topology. */
  emit(id: string, type: string, payload: unknown = {}): number {
    const topology = this.topologies.get(id)!;
    const event = { seq: this.head(id) + 1, type, payload };
    topology.events.push(event);
    for (const stream of this.open) if (id in stream.body.topologies) stream.event(id, event);
    return event.seq;
  }

  async #answer(incoming: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = '';
    for await (const chunk of incoming) text += String(chunk);
    const { headers } = incoming;
    const request = { token: headers.authorization?.replace('Bearer ', ''), headers, body: JSON.parse(text) as Body };
    this.requests.push(request);
    response.on('error', () => {});
    const other = this.next.shift();
    if (other && other(request, response) !== false) return;
    this.serve(request, response);
  }

  serve({ body }: Request, response: ServerResponse): Stream {
    const stream = this.begin(body, response);
    for (const [id, from] of Object.entries(body.topologies)) {
      const topology = this.topologies.get(id);
      if (!topology) {
        stream.notice('deleted', {}, id);
        continue;
      }
      const head = this.head(id);
      if (from !== null && from + 1 >= topology.first && from <= head) {
        for (const event of topology.events) if (event.seq > from) stream.event(id, event);
      } else {
        this.snapshot(stream, id);
      }
    }
    if (body.list) this.list(stream);
    return stream;
  }

  begin(body: Body, response: ServerResponse): Stream {
    const stream = new Stream(response, body);
    this.streams.push(stream);
    response.writeHead(200, { 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache, no-transform' });
    stream.write(`: keepalive\nretry: ${this.retry}\n\n`);
    return stream;
  }

  snapshot(stream: Stream, id: string, seq = this.head(id)): void {
    const { lans, deckies, edges, ...document } = this.topologies.get(id)!.document;
    const graph = stream.body.graph ? { lans: lans ?? [], deckies: deckies ?? [], edges: edges ?? [] } : {};
    stream.frame('snapshot', { topology_id: id, ...document, seq, ...graph }, seq);
  }

  list(stream: Stream): void {
    const data = [...this.topologies.values()].map((t) => ({ ...t.row, seq: this.head(t.id) }));
    const half = Math.ceil(data.length / 2);
    stream.frame('list', { data: data.slice(0, half), more: true });
    stream.frame('list', { data: data.slice(half), more: false });
  }
}

export function problem(status: number, detail: string, headers: Record<string, string> = {}) {
  return (_: Request, response: ServerResponse): void => {
    response.writeHead(status, { 'Content-Type': 'application/problem+json', ...headers });
    response.end(JSON.stringify({ title: 'no', status, detail }));
  };
}

/** A clock that tests move. What is due in no time is not waited for. */
export class Clock {
  #now = 1000;
  #timers = new Map<object, { at: number; f: () => void; ms: number }>();

  host(more: Partial<Host> = {}): Host {
    return {
      performance: { now: () => this.#now },
      setTimeout: (f, ms) => {
        const timer = {};
        this.#timers.set(timer, { at: this.#now + ms, f, ms });
        if (ms <= 0) setTimeout(() => this.#fire(timer), 0);
        return timer;
      },
      clearTimeout: (timer) => void this.#timers.delete(timer as object),
      Math: { random: () => 0.5 },
      fetch: (...args) => fetch(...args),
      ...more,
    };
  }

  #fire(timer: object): void {
    const entry = this.#timers.get(timer);
    if (!entry) return;
    this.#timers.delete(timer);
    entry.f();
  }

  /** How long the timers that wait were set for. */
  get waiting(): number[] { return [...this.#timers.values()].map((t) => t.ms).sort((a, b) => a - b); }

  /** Moves the time and fires what is due, in order. */
  advance(ms: number): void {
    const end = this.#now + ms;
    for (;;) {
      const due = [...this.#timers].filter(([, t]) => t.at <= end).sort((a, b) => a[1].at - b[1].at)[0];
      if (!due) break;
      this.#now = Math.max(this.#now, due[1].at);
      this.#fire(due[0]);
    }
    this.#now = end;
  }
}

/** Waits until something is so; the test's own timeout is the end of patience. */
export async function until(what: () => unknown): Promise<void> {
  while (!what()) await new Promise((resolve) => setTimeout(resolve, 1));
}
