// The timeline of the open topology: what comes live, what the journal has from before, and who asked for it.
import { effect, signal, type ReadonlySignal, type Signal } from '@preact/signals';
import type { Mutation, StreamEvent } from 'topostream';
import { entryOf, entryOfJournal, Events, type Entry } from './entries.ts';
import { parseFilter, type Filter } from './filter.ts';
import type { Frames } from './frames.ts';
import { readJournal, type JournalEvent, type JournalPage } from './journal.ts';
import type { Live } from './live.ts';
import { Problem, type Rest } from './rest.ts';
import type { RouteState } from './route.ts';

export interface Timeline {
  /** Rises whenever the functions below give something else. */
  readonly version: ReadonlySignal<number>;
  /** Rises with it, four times a second at most. */
  readonly sampled: ReadonlySignal<number>;
  readonly shown: () => readonly Entry[];
  readonly all: () => readonly Entry[];
  readonly hour: (now: number) => ReturnType<Events['hour']>;
  readonly filter: ReadonlySignal<Filter>;
  readonly loading: ReadonlySignal<boolean>;
  /** Why the journal could not be read, if it could not. */
  readonly problem: ReadonlySignal<string | null>;
  /** Whether the oldest event that the journal has is here. */
  readonly complete: ReadonlySignal<boolean>;
  readonly paused: Signal<boolean>;
  /** How many events wait while it is paused. */
  readonly waiting: ReadonlySignal<number>;
  /** Whether the newest row is in view; set by whoever scrolls. While somebody reads further up, more rows are kept. */
  readonly atEnd: Signal<boolean>;
  /** Reads the page of the journal before the oldest event. */
  readonly older: () => Promise<void>;
  /** Who asked for a mutation: '' if nobody says, null if it is too old to be found, undefined before the look-up. */
  readonly who: (mutation: string | null) => string | null | undefined;
  /** Finds out who asked for what is on the screen, some time soon and at most once in five seconds. */
  readonly wantWho: (mutations: readonly string[]) => void;
  readonly entry: (seq: number) => Entry | undefined;
  /** Brings an event here that is not, for the inspector. */
  readonly fetchEntry: (seq: number) => Promise<Entry | undefined>;
}

const page = 500;
const samplePeriod = 250;
const mostFetched = 1000;
/** Of how many mutations it is kept who asked for them: of more than can be kept as rows. */
const mostNames = 50_000;

export function createTimeline(
  window: Window & typeof globalThis, live: Live, route: RouteState, rest: Rest, frames: Frames,
): Timeline {
  const version = signal(0);
  const sampled = signal(0);
  const loading = signal(false);
  const problem = signal<string | null>(null);
  const complete = signal(false);
  const paused = signal(false);
  const waiting = signal(0);
  const atEnd = signal(true);
  const filter = signal<Filter>(parseFilter(''));
  const who = new Map<string, string | null>();
  let id: string | null = null;
  let events = new Events();
  let held: Entry[] = []; // came while paused
  let arrived: Entry[] = []; // came since the last frame that took them in
  let sampling = 0;
  let snapshot = 0; // the newest one's seq
  let fetched = new Map<number, Entry>(); // one by one, for the inspector

  const touch = (): void => {
    version.value = version.peek() + 1;
    sampling ||= window.setTimeout(() => {
      sampling = 0;
      sampled.value = version.peek();
    }, samplePeriod);
  };
  const learn = (mutations: readonly Mutation[]): void => {
    for (const { id, requested_by } of mutations) if (requested_by !== undefined) who.set(id, requested_by ?? '');
    for (const id of who.keys()) { // the oldest first
      if (who.size <= mostNames) break;
      who.delete(id);
    }
  };
  const nameOf = (entry: Entry): string | null => (entry.mutation && who.get(entry.mutation)) || null;

  const begin = (topology: string | null): void => {
    id = topology;
    events = new Events(nameOf);
    events.apply(filter.peek());
    held = [];
    arrived = [];
    fetched = new Map();
    who.clear();
    waiting.value = 0;
    paused.value = false;
    atEnd.value = true;
    complete.value = false;
    loading.value = false;
    problem.value = null;
    touch();
  };

  const read = async (after: number, limit: number): Promise<JournalPage | null> => {
    const topology = id;
    try {
      const answer = await readJournal(rest, topology!, after, limit);
      if (topology !== id) return null;
      problem.value = null;
      return answer;
    } catch (error) {
      if (topology === id) problem.value = error instanceof Problem ? error.message : String(error);
      return null;
    }
  };

  /** Reads what the journal has above one seq, up to another. */
  const between = async (after: number, to: number): Promise<void> => {
    const topology = id;
    for (let at = after; at < to && topology === id;) {
      const answer = await read(at, 1000);
      if (!answer?.events.length) return;
      if (at === after && answer.first > after + 1) gap(after + 1, answer.first - 1);
      events.insert(answer.events.map(entryOfJournal));
      at = answer.events.at(-1)!.seq;
      touch();
    }
  };

  const gap = (from: number, to: number): void => events.append([{
    kind: 'gap', seq: null, ts: '', type: '', payload: null, mutation: null,
    summary: `${from} to ${to} are in no journal any more`,
  }]);

  const older = async (): Promise<void> => {
    if (!id || loading.peek() || complete.peek()) return;
    const oldest = events.oldest ?? snapshot + 1;
    loading.value = true;
    try {
      const found: JournalEvent[] = [];
      let first = 0;
      for (let at = Math.max(0, oldest - 1 - page); at < oldest - 1;) { // more than one page where events are large
        const answer = await read(at, page);
        if (!answer) return;
        ({ first } = answer);
        const below = answer.events.filter((event) => event.seq < oldest);
        found.push(...below);
        at = below.length === answer.events.length ? below.at(-1)?.seq ?? oldest : oldest;
      }
      if (!found.length || found[0]!.seq <= first) complete.value = true;
      events.insert(found.map(entryOfJournal));
      touch();
    } finally {
      loading.value = false;
    }
  };

  const take = (event: StreamEvent): void => {
    if (!id || event.kind === 'list' || event.topology_id !== id) return;
    if (event.kind === 'snapshot') {
      learn(event.payload.in_flight);
      const newest = newestHere() ?? (complete.peek() ? snapshot : null); // an empty journal has been read, too
      snapshot = event.seq;
      if (newest === null) void older();
      else if (event.seq > newest) void between(newest, event.seq);
      return;
    }
    const entry = entryOf(event);
    if (!entry) return;
    if (paused.peek()) {
      held.push(entry);
      if (held.length > 2 * Events.following) held.splice(0, Events.following);
      waiting.value = held.length;
      return;
    }
    arrived.push(entry);
    frames.take(show);
  };
  const newest = (entries: readonly Entry[]): number | null => entries.findLast((e) => e.seq !== null)?.seq ?? null;
  const newestHere = (): number | null => newest(held) ?? newest(arrived) ?? events.newest;

  const show = (): void => {
    events.append(arrived.splice(0), atEnd.peek() ? Events.following : Events.reading);
    touch();
  };

  live.onEvent((event) => take(event));
  effect(() => {
    const topology = route.current.value.topology;
    if (topology !== id) begin(topology);
  });
  effect(() => {
    const parsed = parseFilter(route.current.value.filter);
    filter.value = parsed;
    events.apply(parsed);
    touch();
  });
  effect(() => {
    if (paused.value) return;
    if (held.length) {
      const last = events.newest;
      const first = held.find((entry) => entry.seq !== null)?.seq;
      events.append(held.splice(0), Events.reading);
      if (last !== null && first && first > last + 1) void between(last, first - 1); // some of what came was let go of
      touch();
    }
    waiting.value = 0;
  });

  let asked = -Infinity;
  let asking = 0;
  let unknown = new Set<string>();
  const ask = async (): Promise<void> => {
    asked = Date.now();
    const topology = id;
    const wanted = unknown;
    unknown = new Set(); // the pages that are about to be read may be too old for what is wanted from now on
    let before = '';
    let ended = false;
    try {
      // Newest first: the first page has most of what is wanted.
      for (let pages = 0; pages < 5 && !ended && wanted.size; pages++) {
        const found = await rest.send<readonly (Mutation & { readonly position: number })[]>(
          'GET', `/topologies/${topology}/mutations?limit=200${before}`);
        if (topology !== id) return;
        learn(found);
        for (const { id } of found) wanted.delete(id);
        ended = found.length < 200;
        before = '&before=' + found.at(-1)?.position;
      }
      for (const mutation of wanted) who.set(mutation, ended ? '' : null); // '': it is gone, and nobody says
    } catch { // the rows stay without a name; the next look asks again
    } finally {
      asking = 0;
      const parsed = filter.peek();
      if (parsed.error === null && parsed.by) events.apply(parsed);
      touch();
    }
  };

  return {
    version, sampled, filter, loading, problem, complete, paused, waiting, atEnd, older,
    shown: () => events.shown,
    all: () => events.all,
    // Up to what has been taken in, or is held: what has just arrived is in with the next frame.
    hour: (now) => events.hour(now, Math.max(snapshot, newest(held) ?? 0), complete.peek()),
    who: (mutation) => mutation === null ? '' : who.get(mutation),
    wantWho: (mutations) => {
      for (const mutation of mutations) if (!who.has(mutation)) unknown.add(mutation);
      if (!unknown.size || asking) return;
      asking = window.setTimeout(() => void ask(), Math.max(200, asked + 5000 - Date.now()));
    },
    entry: (seq) => fetched.get(seq) ?? events.all.findLast((entry) => entry.seq === seq),
    fetchEntry: async (seq) => {
      const answer = await read(seq - 1, 1);
      const event = answer?.events[0];
      if (event?.seq !== seq) return undefined;
      const entry = entryOfJournal(event);
      if (fetched.size >= mostFetched) fetched.clear();
      fetched.set(seq, entry);
      touch();
      return entry;
    },
  };
}
