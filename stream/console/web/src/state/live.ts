// The page's one stream: the list of topologies, and the one that is open with its graph.
import { batch, computed, effect, signal, type ReadonlySignal } from '@preact/signals';
import {
  TopologyStream, type Connection, type StreamEvent, type Summary, type TopologyState, type Violation,
} from 'topostream';
import type { Frames } from './frames.ts';
import type { RouteState } from './route.ts';
import type { Session } from './session.ts';

export interface Live {
  readonly connection: ReadonlySignal<Connection>;
  /** The list; null until all of it has come. */
  readonly rows: ReadonlySignal<readonly Summary[] | null>;
  /** The row of the topology that is open; undefined while there is none. */
  readonly row: ReadonlySignal<Summary | undefined>;
  /** The topology that is open, at its head. */
  readonly open: ReadonlySignal<TopologyState | null>;
  /** All that ever went wrong with the promise on this page; it should stay empty. */
  readonly violations: ReadonlySignal<readonly Violation[]>;
  /** Server's clock minus this one's, in milliseconds: from Topostream-Time, at half of the request's time. */
  readonly offset: ReadonlySignal<number>;
  readonly onEvent: (listener: (event: StreamEvent) => void) => () => void;
  readonly reconnect: () => void;
}

/**
 * A clock that never runs backwards and counts the time that the machine sleeps: performance.now() leaves that out on
 * Linux and macOS, so a stream that died meanwhile would look alive for three keepalives more.
 */
function wakingClock({ performance }: Window): Pick<Performance, 'now'> {
  let [now, mono, wall] = [performance.now(), performance.now(), Date.now()];
  return {
    now: () => {
      const [monoNow, wallNow] = [performance.now(), Date.now()];
      const [ran, went] = [monoNow - mono, wallNow - wall];
      now += went > ran + 1000 ? went : ran; // less is no sleep: the wall's clock counts whole milliseconds
      [mono, wall] = [monoNow, wallNow];
      return now;
    },
  };
}

export function createLive(
  window: Window & typeof globalThis, session: Session, route: RouteState, frames: Frames,
): Live {
  const offset = signal(0);
  let cut = new AbortController(); // ends the requests of a token that has been replaced
  const timedFetch: typeof fetch = async (input, init) => {
    const sent = Date.now();
    const signals = init?.signal ? [init.signal, cut.signal] : [cut.signal];
    const response = await window.fetch(input, { ...init, signal: AbortSignal.any(signals) });
    const time = Date.parse(response.headers.get('Topostream-Time') ?? '');
    if (!Number.isNaN(time)) offset.value = time - (sent + Date.now()) / 2;
    session.tellRole(response.headers.get('Topostream-Role'));
    return response;
  };
  const host = {
    performance: wakingClock(window),
    Math: window.Math,
    fetch: timedFetch,
    setTimeout: window.setTimeout.bind(window),
    clearTimeout: (timer: unknown) => window.clearTimeout(timer as number),
    addEventListener: window.addEventListener.bind(window),
    removeEventListener: window.removeEventListener.bind(window),
  };
  const stream = new TopologyStream({ getToken: session.getToken, list: true, graph: true, host });
  const connection = signal<Connection>({ state: 'idle' });
  const rows = signal<readonly Summary[] | null>(null);
  const row = computed(() => { // found once for all who want it: there may be twenty thousand
    const id = route.current.value.topology;
    return id === null ? undefined : rows.value?.find((one) => one.id === id);
  });
  const open = signal<TopologyState | null>(null);
  const violations = signal<readonly Violation[]>([]);

  const take = (): void => {
    const state = stream.getSnapshot();
    const id = route.current.peek().topology;
    batch(() => {
      connection.value = state.connection;
      rows.value = state.list;
      open.value = (id && state.topologies[id]) || null;
    });
  };
  let followed: string | null = null;
  effect(() => {
    const id = route.current.value.topology;
    if (id === followed) return;
    if (followed) stream.remove(followed);
    if (id) stream.add(id);
    followed = id;
    take();
  });
  // Marks of when the first stream and the first list were there, for measurements.
  const opened = stream.on('connection', ({ state }) => {
    if (state !== 'open') return;
    window.performance.mark('topostream.stream');
    opened();
  });
  const listed = stream.on('event', (event) => {
    if (event.kind !== 'list' || event.type !== 'list' || event.payload.more) return;
    window.performance.mark('topostream.list');
    listed();
  });
  stream.on('violation', (violation) => { violations.value = [...violations.peek(), violation]; });
  stream.subscribe(() => frames.take(take)); // what no frame of the screen shows need not be computed
  let before = session.token.peek();
  let anew = false;
  effect(() => { // a new token counts at once: what the former one was answered is cut off
    const now = session.token.value;
    if (now !== before && now !== null) {
      anew = stream.getSnapshot().connection.state === 'open';
      cut.abort();
      cut = new AbortController();
      stream.reconnect();
    }
    before = now;
  });
  stream.on('connection', ({ state }) => {
    if (!anew || state !== 'waiting') return;
    anew = false;
    stream.reconnect();
  });
  return {
    connection, rows, row, open, violations, offset,
    onEvent: (listener) => stream.on('event', listener),
    reconnect: () => stream.reconnect(),
  };
}
