// `window.topostream`, for tests and the browser's own console: what the page shows, in copies, so that nothing that is
// done to them changes the page. Tests, too, act on it by keys, pointer and address alone.
import type { Op } from '../edit/ops.ts';
import type { Sending } from '../edit/edit.ts';
import type { Ghost } from '../graph/ghost.ts';
import type { App } from '../app.ts';
import type { Selection } from './route.ts';
import { viewOfHead, type View } from './view.ts';

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
  readonly events: readonly {
    readonly kind: string; readonly type: string; readonly seq: number | null; readonly summary: string;
  }[];
  /** Milliseconds from recorded to painted, of the last minute. */
  readonly latency: { readonly p50: number; readonly p99: number; readonly count: number } | null;
  /** Server's clock minus this one's, in milliseconds. */
  readonly offset: number;
  readonly unseen: number;
  /** The topology as it is, as graph and inspector show it, which may be of an older seq; null before a snapshot. */
  readonly head: View | null;
  readonly view: View | null;
  /** Whether an older seq is shown. */
  readonly past: boolean;
  readonly selection: readonly Selection[];
  /** True, or the reason why the graph cannot be edited now. */
  readonly editable: true | string;
  /** What is staged, how its way to the server stands, and the graph with it. */
  readonly staged: readonly Op[];
  readonly sending: Sending['state'];
  readonly preview: View['graph'] | null;
  /** What the graph draws dashed. */
  readonly ghosts: readonly Ghost[];
}

export function expose(
  window: Window, { live, signature, timeline, shown, past, route, editable, editing: { edit }, ghosts }: App,
): void {
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
    get events() {
      return timeline.shown().slice(-1000)
        .map(({ kind, type, seq, summary }) => ({ kind, type, seq, summary }));
    },
    get latency() { return signature.latency.peek(); },
    get offset() { return live.offset.peek(); },
    get unseen() { return signature.unseen.peek(); },
    get head() { return structuredClone(viewOfHead(live.open.peek())); },
    get view() { return structuredClone(shown.peek()); },
    get past() { return past.peek() !== null; },
    get selection() { return structuredClone(route.current.peek().selection); },
    get editable() { return editable.peek(); },
    get staged() { return structuredClone(edit.staged.peek().ops); },
    get sending() { return edit.sending.peek().state; },
    get preview() { return structuredClone(edit.graph.peek()); },
    get ghosts() { return structuredClone(ghosts.peek()); },
  };
  Object.defineProperty(window, 'topostream', { value: peek }); // the graph adds its own
}
