// What tests and the browser's own console may look at: `topostream`, which changes nothing.
import type { App } from '../app.ts';

/** `window.topostream`. */
export interface Peek {
  /** How the connection is: idle, connecting, open, waiting, refused, ended, closed. */
  readonly state: string;
  /** The same in words, as top left. */
  readonly words: string;
  /** How many streams the page has opened, one after another. */
  readonly opens: number;
  readonly open: {
    readonly id: string; readonly part: string; readonly seq: number | null; readonly status: string | null;
    readonly version: number | null; readonly in_flight: number; readonly deckies: number | null;
  } | null;
  /** The open topology's seq; null before its snapshot. */
  readonly lastSeq: number | null;
  /** The page's own count of the promise since the topology was opened, and what the stream says broke it. */
  readonly received: number;
  readonly missing: number;
  readonly twice: number;
  readonly late: number;
  readonly violations: number;
  /** How many topologies the list has; null until it has come. */
  readonly rows: number | null;
  /** The timeline: as many as are kept, those that the filter leaves, the newest thousand of these. */
  readonly kept: number;
  readonly shown: number;
  readonly events: readonly { readonly kind: string; readonly type: string; readonly seq: number | null }[];
  /** Milliseconds from recorded to painted, of the last minute. */
  readonly latency: { readonly p50: number; readonly p99: number; readonly count: number } | null;
  /** Server's clock minus this one's, in milliseconds. */
  readonly offset: number;
  readonly unseen: number;
}

export function expose(window: Window, { live, signature, timeline }: App): void {
  const peek: Peek = {
    get state() { return live.connection.peek().state; },
    get words() { return signature.words.peek().text; },
    get opens() { return signature.opens.peek(); },
    get open() {
      const open = live.open.peek();
      return open && {
        id: open.id, part: open.part, seq: open.seq, status: open.status, version: open.version,
        in_flight: open.in_flight_total, deckies: open.graph?.deckies.length ?? null,
      };
    },
    get lastSeq() { return live.open.peek()?.seq ?? null; },
    get received() { return signature.count.peek().received; },
    get missing() { return signature.count.peek().missing; },
    get twice() { return signature.count.peek().twice; },
    get late() { return signature.count.peek().late; },
    get violations() { return live.violations.peek().length; },
    get rows() { return live.rows.peek()?.length ?? null; },
    get kept() { return timeline.all().length; },
    get shown() { return timeline.shown().length; },
    get events() { return timeline.shown().slice(-1000).map(({ kind, type, seq }) => ({ kind, type, seq })); },
    get latency() { return signature.latency.peek(); },
    get offset() { return live.offset.peek(); },
    get unseen() { return signature.unseen.peek(); },
  };
  Object.defineProperty(window, 'topostream', { value: peek }); // the graph adds its own
}
