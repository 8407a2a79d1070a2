// What stands top left: how the connection is, whether anything is missing, and how long events are under way.
import { computed, effect, signal, type ReadonlySignal } from '@preact/signals';
import type { Connection, TopologyState } from 'topostream';
import { isFailure } from './entries.ts';
import { createFrames, type Frames } from './frames.ts';
import { Latency } from './latency.ts';
import type { Live } from './live.ts';
import { blamed, counted, nothingYet, short, type Count } from './promise.ts';
import type { RouteState } from './route.ts';
import type { Session } from './session.ts';

/** `calm` needs nobody, `busy` mends itself, `bad` needs somebody. */
export interface Words {
  readonly tone: 'calm' | 'busy' | 'bad';
  readonly text: string;
  /** What more there is to say of it. */
  readonly detail: string;
}

export interface Signature {
  /** Milliseconds since 1970 by this machine; a second old at most while somebody looks. */
  readonly clock: ReadonlySignal<number>;
  readonly words: ReadonlySignal<Words>;
  readonly count: ReadonlySignal<Count>;
  /** The newest seq of the open topology that the page knows of. */
  readonly head: ReadonlySignal<number>;
  readonly latency: ReadonlySignal<{ readonly p50: number; readonly p99: number; readonly count: number } | null>;
  /** Failures since somebody last looked at this tab. */
  readonly unseen: ReadonlySignal<number>;
  /** How many streams were opened, one after another. */
  readonly opens: ReadonlySignal<number>;
}

export interface Facts {
  readonly connection: Connection;
  /** When the connection came into its state, and now. */
  readonly since: number;
  readonly now: number;
  readonly topology: TopologyState | null;
  /** How far the page is behind the head, while it catches up. */
  readonly behind: number;
  /** Where the newest stream went on, and when; null if it was the first. */
  readonly resumed: { readonly seq: number; readonly at: number } | null;
  /** When the token ends, by this machine's clock; null where nobody says. */
  readonly expires: number | null;
  /** Whether the page asks for another token. */
  readonly wanted: boolean;
  /** Why the server is not ready, as /readyz has it; null if it is. A stream stays open while the database is away. */
  readonly unready: string | null;
}

const second = 1000;
const away = /database/i;

/** Says how the connection is. */
export function connectionWords(facts: Facts): Words {
  const { connection, since, now, topology, behind, resumed, expires, wanted, unready } = facts;
  if (wanted) return { tone: 'bad', text: 'token ended', detail: 'Paste another token to go on where you were.' };
  switch (connection.state) {
    case 'waiting': {
      const rest = Math.max(0, Math.ceil((since + connection.retry_in - now) / second));
      const when = rest ? `in ${rest} s` : 'now';
      return away.test(connection.reason)
        ? { tone: 'bad', text: `database away, trying again ${when}`, detail: connection.reason }
        : { tone: 'busy', text: `reconnecting ${when}`, detail: connection.reason };
    }
    case 'refused':
      return { tone: 'bad', text: connection.status === 401 ? 'not signed in' : `refused (${connection.status})`,
        detail: connection.reason };
    case 'connecting':
      return now - since < 6 * second ? { tone: 'busy', text: 'connecting', detail: '' } : {
        tone: 'busy', text: 'no answer yet',
        detail: 'The server does not answer. Or other tabs hold all six connections of this browser: close one.',
      };
    case 'ended': return { tone: 'bad', text: 'deleted', detail: 'The topology is deleted.' };
    case 'closed': case 'idle': return { tone: 'busy', text: 'not connected', detail: '' };
    case 'open':
  }
  if (unready !== null && away.test(unready)) {
    return { tone: 'bad', text: 'database away', detail: `${unready}. What is written comes when it is back.` };
  }
  if (topology?.part === 'unavailable') {
    return away.test(topology.problem ?? '')
      ? { tone: 'bad', text: 'database away, trying again', detail: topology.problem ?? '' }
      : { tone: 'busy', text: 'unavailable, trying again', detail: topology.problem ?? '' };
  }
  if (behind >= 20) {
    return { tone: 'busy', text: `catching up ${short(behind)}`, detail: 'Events that were missed come now.' };
  }
  const left = expires === null ? Infinity : expires - now;
  if (left < 5 * 60 * second) {
    const seconds = Math.max(0, Math.ceil(left / second));
    const text = seconds < 60 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
    return { tone: 'busy', text: `live, token ends in ${text}`, detail: 'Paste another token before it ends.' };
  }
  if (resumed && now - resumed.at < 8 * second) {
    return { tone: 'calm', text: `resumed at ${short(resumed.seq)}`, detail: 'The stream went on where it broke off.' };
  }
  return { tone: 'calm', text: 'live', detail: '' };
}

export function createSignature(
  window: Window & typeof globalThis, live: Live, session: Session, route: RouteState,
  frames: Frames = createFrames(window),
): Signature {
  const { document } = window;
  const clock = signal(Date.now());
  window.setInterval(() => { if (!document.hidden) clock.value = Date.now(); }, second);

  const since = signal(Date.now());
  const resumed = signal<Facts['resumed']>(null);
  const opens = signal(0);
  let was: Connection['state'] | null = null;
  let left: number | null = null; // the seq where the stream broke off: when it is open again, events may have come
  effect(() => {
    const { state } = live.connection.value;
    if (state === was) return;
    if (was === 'open') left = live.open.peek()?.seq ?? null;
    was = state;
    clock.value = since.value = Date.now();
    if (state !== 'open') return;
    if (left) resumed.value = { seq: left, at: Date.now() };
    opens.value = opens.peek() + 1;
  });

  const unready = signal<string | null>(null);
  const ask = async (): Promise<void> => {
    if (document.hidden || live.connection.peek().state !== 'open') return;
    const answer = await window.fetch('/readyz', { signal: AbortSignal.timeout(4 * second) }).catch(() => null);
    if (!answer) return; // the stream tells by itself whether the server is there
    const problem = answer.status === 503 ? await answer.json().catch(() => null) as { detail?: string } | null : null;
    unready.value = problem?.detail ?? null;
  };
  window.setInterval(() => void ask(), 5 * second);
  effect(() => { // what was said before the stream broke off no longer counts
    if (live.connection.value.state !== 'open') return;
    unready.value = null;
    void ask();
  });

  const count = signal<Count>(nothingYet);
  let counting: Count = nothingYet;
  let taken = 0; // how many of live.violations are counted
  let topology: string | null = null;
  effect(() => {
    const id = route.current.value.topology;
    if (id === topology) return;
    topology = id;
    counting = count.value = nothingYet;
    resumed.value = left = null;
  });
  effect(() => {
    const all = live.violations.value;
    for (const violation of all.slice(taken)) {
      if (violation.topology_id === topology || violation.topology_id === null) counting = blamed(counting, violation);
    }
    taken = all.length;
    count.value = counting;
  });

  const unseen = signal(0);
  const states = new Map<string, string>(); // of the list, to see what fails in topologies that are not open
  const latency = new Latency();
  const measured = signal<ReturnType<Latency['at']>>(null);
  let unpainted: number[] = []; // when the events were recorded that the next frame shows
  live.onEvent((event) => {
    if (event.kind === 'list') {
      if (event.type === 'removed') return void states.delete(event.payload.id);
      for (const row of event.type === 'list' ? event.payload.data : [event.payload]) {
        const before = states.get(row.id);
        states.set(row.id, row.status);
        if (before && before !== row.status && document.hidden && row.id !== topology
          && isFailure('status', { state: row.status })) unseen.value++;
      }
      return;
    }
    if (event.topology_id !== topology) return;
    counting = counted(counting, event);
    if (event.kind !== 'event') return;
    if (document.hidden) {
      if (isFailure(event.type, event.payload)) unseen.value++;
    } else if (unpainted.length < 10_000) unpainted.push(Date.parse(event.ts));
  });
  document.addEventListener('visibilitychange', () => {
    clock.value = Date.now();
    if (document.hidden) unpainted = [];
    else {
      unseen.value = 0;
      void ask();
    }
  });
  const paint = (): void => {
    const painted = Date.now();
    for (const recorded of unpainted.splice(0)) latency.add(painted, painted + live.offset.peek() - recorded);
  };
  effect(() => {
    void live.open.value; // the state has changed: this frame shows it, or the next
    count.value = counting;
    if (unpainted.length) frames.draw(paint);
  });
  effect(() => { measured.value = latency.at(clock.value); });

  const head = computed(() => {
    const open = live.open.value;
    return Math.max(open?.seq ?? 0, (open && live.row.value?.seq) ?? 0);
  });
  const expires = computed(() => { // the server's clock decides
    const by = session.identity.value?.expires ?? null;
    return by === null ? null : by - live.offset.value;
  });
  const words = computed(() => connectionWords({
    connection: live.connection.value, since: since.value, now: clock.value, topology: live.open.value,
    behind: head.value - (live.open.value?.seq ?? head.value), resumed: resumed.value,
    expires: expires.value, wanted: session.wanted.value !== null, unready: unready.value,
  }));
  effect(() => {
    const name = live.row.value?.name;
    document.title = (unseen.value ? `(${unseen.value}) ` : '') + (name ? `${name} · topostream` : 'topostream');
  });
  return { clock, words, count, head, latency: measured, unseen, opens };
}
