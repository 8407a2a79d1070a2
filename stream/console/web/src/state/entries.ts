// The events of the open topology, as they came and as the journal has them, in one order.
import type { GraphChanges, StreamEvent } from 'topostream';
import type { Filter, Filtered } from './filter.ts';
import type { JournalEvent } from './journal.ts';
import { beginning } from './text.ts';

/** A row of the timeline. A raw NOTIFY has no seq; it stands where it came. A gap is what the journal no longer has. */
export interface Entry {
  readonly kind: 'event' | 'raw' | 'gap';
  readonly seq: number | null;
  readonly ts: string;
  readonly type: string;
  readonly payload: unknown;
  readonly summary: string;
  /** A mutation's id, if it is one's. */
  readonly mutation: string | null;
}

type Fields = Record<string, unknown>;
const fieldsOf = (payload: unknown): Fields =>
  typeof payload === 'object' && payload !== null ? payload as Fields : {};

const clip = (text: string, length: number): string =>
  text.length > length ? beginning(text, length - 1) + '…' : text;

const changesOf = (changes: GraphChanges): string => {
  const names = [...changes.lans ?? [], ...changes.deckies ?? []].map((row) => row.name);
  const removed = changes.removed?.length ?? 0;
  const edges = changes.edges?.length ?? 0;
  return [
    names.length && clip(names.slice(0, 4).join(', '), 80) + (names.length > 4 ? ` and ${names.length - 4} more` : ''),
    !names.length && edges && `${edges} edge${edges === 1 ? '' : 's'}`,
    removed && `${removed} removed`,
  ].filter(Boolean).join('; ') || 'nothing';
};

/** What an op does, in its own words: "add_decky web-1 in dmz". */
function opSummary(op: string, payload: unknown): string {
  const p = fieldsOf(payload);
  if (op === 'changeset' && Array.isArray(p.ops)) {
    const ops = p.ops.map((item) => String(fieldsOf(item).op));
    return `changeset of ${ops.length}: ${clip(ops.join(', '), 100)}`;
  }
  const lan = typeof p.lan === 'string' ? (op === 'detach_decky' ? ' from ' : op === 'attach_decky' ? ' to ' : ' in ')
    + p.lan : '';
  return clip(`${op} ${String(p.name ?? p.decky ?? '')}${lan}`.trim(), 160);
}

/** One line that says what an event is about. */
export function summarize(type: string, payload: unknown): string {
  const p = fieldsOf(payload);
  switch (type) {
    case 'mutation.enqueued': case 'mutation.applying': return opSummary(String(p.op), p.payload);
    case 'mutation.applied': return `${String(p.op)}: ${changesOf((p.result ?? {}) as GraphChanges)}`;
    case 'mutation.failed': return `${String(p.op)}: ${String(p.reason ?? 'no reason')}`;
    case 'mutation.requeued': return `${String(p.op)}: attempt ${String(p.attempt)}, a lease ran out`;
    case 'graph': return changesOf(p as GraphChanges);
    case 'status': return `to ${String(p.state).replace('_', ' ')}${p.reason ? ': ' + String(p.reason) : ''}`;
    case 'deleted': return 'the topology is deleted';
    default: return clip(typeof payload === 'string' ? payload : JSON.stringify(payload) ?? '', 160);
  }
}

/** Makes an entry of an event of the stream; null of what is no row. */
export function entryOf(event: StreamEvent): Entry | null {
  if (event.kind === 'event') return entryOfJournal(event);
  if (event.kind !== 'raw') return null;
  const { type, ts, payload } = event;
  return { kind: 'raw', seq: null, ts, type, payload, summary: summarize('', payload), mutation: null };
}

export function entryOfJournal({ type, ts, seq, payload }: JournalEvent): Entry {
  const { mutation_id } = fieldsOf(payload);
  return {
    kind: 'event', seq, ts, type, payload, summary: summarize(type, payload),
    mutation: type.startsWith('mutation.') && typeof mutation_id === 'string' ? mutation_id : null,
  };
}

/** Whether an event is a failure: the title counts those that come while nobody looks. */
export function isFailure(type: string, payload: unknown): boolean {
  const state = type === 'status' ? fieldsOf(payload).state : null;
  return type === 'mutation.failed' || state === 'failed' || state === 'degraded';
}

/**
 * Merges a page of the journal into the entries; both are in order. An event that is there already stays the same
 * object; a raw NOTIFY stays behind the event that it came after.
 */
export function merge(entries: readonly Entry[], page: readonly Entry[]): Entry[] {
  const first = entries[0]?.seq;
  if (first && page.length && page.at(-1)!.seq! < first) return [...page, ...entries]; // as when somebody scrolls up
  const result: Entry[] = [];
  let next = 0;
  for (const entry of entries) {
    if (entry.seq !== null) {
      while (next < page.length && page[next]!.seq! < entry.seq) result.push(page[next++]!);
      if (next < page.length && page[next]!.seq === entry.seq) next++;
    }
    result.push(entry);
  }
  for (; next < page.length; next++) result.push(page[next]!);
  return result;
}

/** Where the event of a seq is among entries in order; -1 if it is not there. */
export function placeOfSeq(entries: readonly Entry[], seq: number): number {
  let low = 0;
  let high = entries.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    let at = middle;
    while (at >= low && entries[at]!.seq === null) at--; // what has no seq stands behind an event
    if (at >= low && entries[at]!.seq! >= seq) high = at;
    else low = middle + 1;
  }
  return entries[low]?.seq === seq ? low : -1;
}

export const placeOf = (entries: readonly Entry[], entry: Entry): number =>
  entry.seq === null ? entries.lastIndexOf(entry) : placeOfSeq(entries, entry.seq);

/** How many events came in a minute, and how many of them were failures. */
export interface Bin {
  readonly minute: number;
  readonly count: number;
  readonly failures: number;
}

/** The last hour, by minute, oldest first. */
export interface Hour {
  readonly bins: readonly Bin[];
  /** When the hour begins, and from when on no event is left out; Infinity while nothing is read. */
  readonly from: number;
  readonly since: number;
}

/** Events without a hole between, by seq; `since` is when the first of them was recorded. */
interface Run {
  readonly from: number;
  to: number;
  readonly since: number;
}

const perMinute = 60_000;

/** Keeps the entries of one topology, and those that a filter leaves of them. */
export class Events {
  /** The most that is kept while new events come, and while somebody scrolls into the past. */
  static readonly following = 20_000;
  static readonly reading = 120_000;
  #entries: Entry[] = [];
  #matching: Entry[] | null = null; // null: there is no filter
  #test: ((entry: Filtered) => boolean) | null = null;
  #who: (entry: Entry) => string | null;
  #bins = new Map<number, { count: number; failures: number }>();
  #runs: Run[] = []; // what the bins have counted, in order: what was let go of may be read again, and counts once

  constructor(who: (entry: Entry) => string | null = () => null) { this.#who = who; }

  get all(): readonly Entry[] { return this.#entries; }
  get shown(): readonly Entry[] { return this.#matching ?? this.#entries; }

  /** The oldest seq that is here; null if there is none. */
  get oldest(): number | null { return this.#entries.find((entry) => entry.seq !== null)?.seq ?? null; }
  get newest(): number | null { return this.#entries.findLast((entry) => entry.seq !== null)?.seq ?? null; }

  /** Appends what came, and lets go of the oldest if `most` are too many. */
  append(entries: readonly Entry[], most = Events.following): void {
    this.#entries.push(...entries);
    for (const entry of entries) this.#bin(entry);
    if (this.#matching && this.#test) this.#matching.push(...entries.filter((entry) => this.#passes(entry)));
    // A tenth more, so that not every event moves the whole array.
    if (this.#entries.length > most * 1.1) {
      const dropped = new Set(this.#entries.splice(0, this.#entries.length - most));
      const first = this.#matching?.findIndex((entry) => !dropped.has(entry)) ?? 0;
      this.#matching?.splice(0, first < 0 ? this.#matching.length : first);
    }
  }

  /** Takes a page of the journal in. */
  insert(page: readonly Entry[]): void {
    this.#entries = merge(this.#entries, page);
    for (const entry of page) this.#bin(entry);
    this.filter(this.#test);
  }

  /** Shows only what passes a test; everything with null. */
  filter(test: ((entry: Filtered) => boolean) | null): void {
    this.#test = test;
    this.#matching = test ? this.#entries.filter((entry) => this.#passes(entry)) : null;
  }

  apply(filter: Filter): void {
    if (filter.error === null) this.filter(filter.empty ? null : filter.test);
  }

  /** The hour up to now. `head` is the newest seq that there is; `complete`: the oldest of the journal is here. */
  hour(now: number, head: number, complete: boolean): Hour {
    const last = Math.floor(now / perMinute);
    const from = (last - 59) * perMinute;
    for (const minute of this.#bins.keys()) if (minute < last - 60) this.#bins.delete(minute);
    const bins = Array.from({ length: 60 }, (_, i) => {
      const minute = last - 59 + i;
      return { minute, ...(this.#bins.get(minute) ?? { count: 0, failures: 0 }) };
    });
    return { bins, from, since: Math.max(from, this.#countedSince(head, complete)) };
  }

  #countedSince(head: number, complete: boolean): number {
    const run = this.#runs.at(-1);
    if (run && run.to < head) return Infinity; // the newest are still to come
    return complete && this.#runs.length < 2 ? -Infinity : run?.since ?? Infinity;
  }

  #passes(entry: Entry): boolean {
    const { seq, type, summary, payload } = entry;
    return entry.kind !== 'gap' && this.#test!({ seq, type, summary, payload, by: this.#who(entry) });
  }

  #bin(entry: Entry): void {
    const at = Date.parse(entry.ts);
    const minute = Math.floor(at / perMinute);
    if (Number.isNaN(minute) || (entry.seq !== null && !this.#isNew(entry.seq, at))) return;
    const bin = this.#bins.get(minute) ?? { count: 0, failures: 0 };
    this.#bins.set(minute, bin);
    bin.count++;
    if (isFailure(entry.type, entry.payload)) bin.failures++;
  }

  /** Takes a seq into the runs, and says whether it was in none. */
  #isNew(seq: number, since: number): boolean {
    const runs = this.#runs;
    let i = runs.length - 1;
    while (i >= 0 && runs[i]!.from > seq) i--;
    const before = runs[i];
    const after = runs[i + 1];
    if (before && seq <= before.to) return false;
    if (before && seq === before.to + 1) before.to = seq;
    else runs.splice(++i, 0, { from: seq, to: seq, since });
    if (after && after.from === seq + 1) {
      runs[i]!.to = after.to;
      runs.splice(i + 1, 1);
    }
    return true;
  }
}
