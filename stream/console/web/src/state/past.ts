// Looking at the past: the journal as far as it has been read, and the view at the seq that the address names.
import { computed, effect, signal, untracked, type ReadonlySignal, type Signal } from '@preact/signals';
import { readJournal, type JournalEvent, type JournalPage } from './journal.ts';
import type { Live } from './live.ts';
import type { Rest } from './rest.ts';
import type { RouteState } from './route.ts';
import { viewOfHead, type View } from './view.ts';
import { isStop, walkBack } from './walk.ts';

/** A topology's events, as far as they have been read: without a gap, up to the newest. */
export interface JournalWindow {
  /** The oldest seq that the journal holds, in this epoch; null until it has answered. */
  readonly first: number | null;
  readonly head: number;
  readonly events: readonly JournalEvent[];
}

export interface Past {
  /** Null while no topology is open. */
  readonly window: ReadonlySignal<JournalWindow | null>;
  /** True while the journal is read for what the address names. */
  readonly reading: ReadonlySignal<boolean>;
  /** Why the address's seq is not what is shown, in a sentence. */
  readonly problem: ReadonlySignal<string | null>;
  /** Looks at a seq; the head, or what is beyond it, is now. */
  readonly seek: (seq: number) => void;
  readonly now: () => void;
  /** Goes one event back or on. Parts of one statement are one event. */
  readonly step: (by: -1 | 1) => Promise<void>;
  /** The newest event that fits, reading back as far as the journal reaches; undefined if there is none. */
  readonly find: (fits: (event: JournalEvent) => boolean) => Promise<JournalEvent | undefined>;
  /** Reads the newest page, so that there is something to show. */
  readonly prepare: () => Promise<void>;
}

const pageSize = 1000;
/** How many pages are read before the seq looked at, to learn what the events after it leave open. */
const pagesForDetails = 20;
const viewsKept = 100;
/** How many events are kept of what comes while nobody looks at the past: the journal has them all. */
const eventsKept = 2000;
/** Milliseconds between two updates of the window by what comes live, at least. */
const updatePeriod = 250;
const epochSize = 2 ** 32;

export function createPast(
  { route, rest, live, past }: { route: RouteState; rest: Rest; live: Live; past: Signal<View | null> },
): Past {
  const window = signal<JournalWindow | null>(null);
  const reading = signal(false);
  const problem = signal<string | null>(null);
  let start = 0; // the seq of events[0], or of what would be there
  let views = new Map<number, View>(); // by seq: the past does not change
  const generation = signal(0); // of the window: an answer for an older one is thrown away
  let queue: Promise<unknown> = Promise.resolve(); // one reader at a time
  let readers = 0; // while there are some, no event is let go of: they prepend to the window

  let arrived: JournalEvent[] = []; // came live, and is not in the window yet
  let timer: ReturnType<typeof setTimeout> | undefined;
  const newest = (known: JournalWindow): number => arrived.at(-1)?.seq ?? known.head;

  /** Takes what has arrived into the window, and lets go of what nobody looks at. */
  const tell = (): void => {
    clearTimeout(timer);
    timer = undefined;
    const known = window.peek();
    if (!known || arrived.length === 0) return;
    let events = [...known.events, ...arrived];
    if (readers === 0 && route.current.peek().at === null && events.length > 2 * eventsKept) {
      events = events.slice(-eventsKept);
      start = events[0]!.seq;
    }
    window.value = { ...known, head: newest(known), events };
    arrived = [];
  };

  const begin = (head: number): void => {
    arrived = [];
    start = head + 1;
    views = new Map();
    window.value = { first: null, head, events: [] };
    generation.value++;
  };

  live.onEvent((event) => {
    if (!('topology_id' in event) || event.topology_id !== route.current.peek().topology) return;
    const known = window.peek();
    if (event.kind === 'snapshot' && event.seq !== (known && newest(known))) begin(event.seq);
    if (event.kind !== 'event' || !known || event.seq !== newest(known) + 1) return;
    const { type, seq, ts, payload } = event as unknown as JournalEvent;
    arrived.push({ type, seq, ts, payload });
    timer ??= setTimeout(tell, updatePeriod);
  });
  let topology: string | null = null;
  effect(() => { // another topology, whose snapshot begins the next window
    const { topology: next } = route.current.value;
    if (next === topology) return;
    topology = next;
    arrived = [];
    window.value = null;
    past.value = null;
    untracked(() => generation.value++);
  });

  const page = (after: number, limit: number): Promise<JournalPage> => readJournal(rest, topology!, after, limit);

  /** Reads back until the window holds `seq`, or all that the journal has. */
  const readTo = (seq: number): Promise<void> => {
    readers++;
    const turn = queue.then(async () => {
      const asked = generation.peek();
      if (!window.peek()) return;
      if (window.peek()!.first === null) {
        // Numbers of an older epoch are another history's: between them and this one's is no way back.
        const epoch = Math.floor(window.peek()!.head / epochSize) * epochSize;
        const { events: [oldest] } = await page(Math.max(0, epoch - 1), 1);
        if (asked !== generation.peek()) return;
        window.value = { ...window.peek()!, first: Math.min(oldest?.seq ?? start, start) };
      }
      while (start > Math.max(seq, window.peek()!.first!)) {
        const from = Math.max(window.peek()!.first!, start - pageSize);
        const block: JournalEvent[] = [];
        while ((block.at(-1)?.seq ?? from - 1) < start - 1) { // a page is also bounded in bytes
          const after = block.at(-1)?.seq ?? from - 1;
          const { events } = await page(after, start - 1 - after);
          if (asked !== generation.peek()) return;
          // A gap is where the journal was pruned meanwhile.
          if (events[0] && events[0].seq !== after + 1) block.length = 0;
          block.push(...events.map(({ type, seq: n, ts, payload }) => ({ type, seq: n, ts, payload })));
          if (events.length === 0) break;
        }
        const known = window.peek()!;
        if (block.at(-1)?.seq !== start - 1) {
          window.value = { ...known, first: start };
          return;
        }
        start = block[0]!.seq;
        const first = start > from ? start : known.first;
        window.value = { ...known, first, events: [...block, ...known.events] };
      }
    });
    queue = turn.catch(() => undefined).then(() => { readers--; });
    return turn;
  };

  /** The newest seq up to `seq` at which the graph is defined; the next one if there is none. */
  const stopAt = (seq: number): number => {
    const { events } = window.peek()!;
    for (let i = seq - start; i >= 0; i--) if (events[i] && isStop(events[i]!)) return events[i]!.seq;
    return events.find((event) => event.seq > seq && isStop(event))?.seq ?? seq;
  };

  const viewAt = (seq: number, head: View): View => {
    const kept = views.get(seq);
    if (kept) return kept;
    let base = head;
    for (const view of views.values()) if (view.seq >= seq && view.seq < base.seq) base = view;
    return walkBack(base, window.peek()!.events, seq);
  };

  const isComplete = (view: View): boolean =>
    !view.unknown?.length && view.in_flight.every((m) => m.payload !== undefined);

  const look = async (at: number): Promise<void> => {
    const asked = generation.peek();
    const wanted = (): boolean => asked === generation.peek() && route.current.peek().at === at;
    try {
      reading.value = !window.peek() || start > at || window.peek()!.first === null;
      await readTo(at);
      tell();
      const head = viewOfHead(live.open.peek());
      if (!wanted() || !head) return;
      const { first } = window.peek()!;
      problem.value = at < first! ? `the journal begins at ${first}: what was at ${at} is not known any more` : null;
      if (start > head.seq) {
        problem.value = 'the journal holds nothing of this topology any more';
        past.value = null;
        return;
      }
      for (let pages = 0; ; pages++) {
        const seq = stopAt(at);
        const view = viewAt(seq, head);
        past.value = view;
        if (isComplete(view) || start <= first! || pages >= pagesForDetails) {
          views.set(seq, view);
          if (views.size > viewsKept) views.delete(views.keys().next().value!);
          return;
        }
        await readTo(start - 1);
        if (!wanted()) return;
        tell();
      }
    } catch (error) {
      if (wanted()) problem.value = error instanceof Error ? error.message : String(error);
    } finally {
      if (wanted() || route.current.peek().at === null) reading.value = false;
    }
  };

  // These change with the address, and when there is a head to walk back from, but not with each event: the past stays.
  const at = computed(() => route.current.value.at);
  const walkable = computed(() => {
    const head = viewOfHead(live.open.value);
    return window.value !== null && head !== null && head.seq >= (at.value ?? Infinity) ? head.id : null;
  });
  const beyond = computed(() => {
    const { head } = window.value ?? {};
    return at.value !== null && head !== undefined && at.value > head ? head : null;
  });
  effect(() => {
    const seq = at.value;
    const ready = walkable.value !== null && walkable.value === route.current.value.topology;
    const head = beyond.value;
    void generation.value; // what another window showed is not the past of what is there now
    untracked(() => {
      if (seq !== null && ready) {
        void look(seq);
        return;
      }
      past.value = null;
      reading.value = seq !== null && head === null;
      problem.value = seq !== null && head !== null ? `seq ${seq} has not come yet: the head is ${head}` : null;
    });
  });

  const seek = (seq: number): void => {
    const { at: was } = route.current.peek();
    const next = seq >= (window.peek()?.head ?? Infinity) ? null : Math.max(seq, window.peek()?.first ?? 1);
    route.go({ at: next }, was !== null && next !== null);
  };
  return {
    window, reading, problem, seek,
    now: () => route.go({ at: null }),
    step: async (by) => {
      tell();
      const known = window.peek();
      if (!known) return;
      const from = past.peek()?.seq ?? route.current.peek().at ?? known.head;
      if (by < 0) {
        // One more than is wanted, so that the first part of a statement in parts is found.
        let lowest = from - 1;
        do {
          await readTo(--lowest);
        } while (start <= lowest && !window.peek()!.events.some((e) => e.seq < from && isStop(e)));
      }
      const events = window.peek()?.events ?? [];
      const next = by < 0 ? events.findLast((e) => e.seq < from && isStop(e)) : events.find((e) =>
        e.seq > from && isStop(e));
      if (next) seek(next.seq);
      else if (by < 0) problem.value = `the journal begins at ${window.peek()?.first}`;
      else route.go({ at: null });
    },
    find: async (fits) => {
      tell();
      for (;;) {
        const found = window.peek()?.events.findLast(fits);
        const { first } = window.peek() ?? {};
        if (found || !window.peek() || (first !== null && start <= first!)) return found;
        const before = start;
        await readTo(start - 1);
        if (start === before) return undefined; // closed meanwhile, or another history has begun
      }
    },
    prepare: () => readTo(Math.max(1, start - pageSize)),
  };
}
