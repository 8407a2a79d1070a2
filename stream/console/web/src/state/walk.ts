// How a topology was at an older seq: walked back from a newer one by the events between.
//
// Graph: `before` of each change, backwards. What is in flight, version and status: from the events themselves; what
// none of them says is unknown, and is not guessed where a guess could be wrong.
import {
  applyGraph, type Decky, type Graph, type GraphChanges, type KnownEvents, type Mutation, type TopologyStatus,
} from 'topostream';
import { transitions } from './lifecycle.ts';
import type { View } from './view.ts';

/** An event as the journal gives it. */
export interface JournalEvent {
  readonly type: string;
  readonly seq: number;
  readonly ts: string;
  readonly payload: unknown;
}

type Row = Record<string, unknown>;
type Ids = { readonly id?: unknown; readonly uuid?: unknown };
type AnyPayload = Partial<
  KnownEvents['mutation.enqueued'] & KnownEvents['mutation.applied'] & Omit<KnownEvents['status'], 'reason'>
> & { readonly reason?: string | null };

const tables = ['lans', 'deckies', 'edges'] as const;
const payloadOf = (event: JournalEvent): AnyPayload => (event.payload ?? {}) as AnyPayload;
const isFinish = (type: string): boolean => type === 'mutation.applied' || type === 'mutation.failed';

/** The changes of the graph that an event tells; null if it tells none. */
export function changesOf(event: JournalEvent): GraphChanges | null {
  if (event.type === 'graph') return event.payload as GraphChanges;
  return event.type === 'mutation.applied' ? payloadOf(event).result ?? null : null;
}

/** Whether the graph is defined after an event: parts of a statement (`more`) are one step, which its last part ends. */
export const isStop = (event: JournalEvent): boolean => changesOf(event)?.more !== true;

/**
 * Gives the view at `seq`. `base` is a newer one, or the same; `events` are all from some seq on, without a gap, and
 * reach base.seq at least. What lies before `seq` among them tells what the newer ones leave open: when the status was
 * set, and what a mutation's payload was. Between the parts of one statement the graph is as before the first.
 */
export function walkBack(base: View, events: readonly JournalEvent[], seq: number): View {
  const known = events.filter((event) => event.seq <= base.seq);
  const later = known.filter((event) => event.seq > seq);
  const earlier = known.slice(0, known.length - later.length);
  const { status, reason, guessed } = statusAt(base, earlier, later);
  return {
    ...base, seq, status, reason,
    version: versionAt(base, earlier, later),
    graph: graphAt(base.graph, earlier, later),
    ...inFlightAt(base, known, later, seq),
    at: earlier.at(-1)?.ts ?? null,
    unknown: guessed ? ['the journal does not reach back to when this status was set'] : [],
  };
}

function statusAt(
  base: View, earlier: readonly JournalEvent[], later: readonly JournalEvent[],
): { status: TopologyStatus; reason: string | null; guessed: boolean } {
  const next = later.find((event) => event.type === 'status');
  if (!next) return { status: base.status, reason: base.reason, guessed: (base.unknown ?? []).length > 0 };
  const last = earlier.findLast((event) => event.type === 'status');
  if (last) return { status: payloadOf(last).state!, reason: payloadOf(last).reason ?? null, guessed: false };
  // What may become the next one; where the reason alone changed, the same.
  const { state } = payloadOf(next);
  const from = (Object.keys(transitions) as TopologyStatus[]).filter((one) => transitions[one].includes(state!));
  return { status: from[0] ?? state!, reason: null, guessed: true };
}

function versionAt(base: View, earlier: readonly JournalEvent[], later: readonly JournalEvent[]): number {
  const last = earlier.findLast((event) => isFinish(event.type));
  if (last) return payloadOf(last).version!;
  const next = later.find((event) => isFinish(event.type));
  return next ? payloadOf(next).version! - 1 : base.version;
}

function graphAt(graph: Graph, earlier: readonly JournalEvent[], later: readonly JournalEvent[]): Graph {
  // A statement that began at or before the seq and ended after it counts as not begun.
  let open = earlier.length;
  while (open > 0 && later.length > 0 && !isStop(earlier[open - 1]!)) open--;
  let changes = [...earlier.slice(open), ...later].map(changesOf).filter((c) => c !== null);
  // A statement whose end has not come is not in the base's graph either.
  while (changes.at(-1)?.more) changes = changes.slice(0, -1);
  return changes.length === 0 ? graph : applyGraph(graph, composeBackwards(changes), true);
}

/** Makes of many changes one whose way back is that of all of them, so that a graph is copied once. */
export function composeBackwards(changes: readonly GraphChanges[]): GraphChanges {
  const written = { lans: new Map<unknown, Row>(), deckies: new Map<unknown, Row>(), edges: new Map<unknown, Row>() };
  const made = new Map<unknown, { readonly table: keyof Graph; readonly row: Row }>();
  const key = (row: Ids): unknown => row.id ?? row.uuid;
  for (const change of changes.toReversed()) {
    for (const table of tables) {
      const before = (change.before?.[table] ?? []) as unknown as readonly Row[];
      const had = new Set(before.map(key));
      for (const row of (change[table] ?? []) as unknown as readonly Row[]) {
        if (had.has(key(row))) continue;
        written[table].delete(key(row));
        made.set(key(row), { table, row });
      }
      for (const row of before) {
        made.delete(key(row));
        written[table].set(key(row), { ...written[table].get(key(row)), ...withoutConfig(change, table), ...row });
      }
    }
  }
  const rowsOf = (table: keyof Graph): Row[] =>
    [...made.values()].flatMap((one) => (one.table === table ? [one.row] : []));
  return {
    lans: rowsOf('lans'), deckies: rowsOf('deckies'), edges: rowsOf('edges'),
    before: {
      lans: [...written.lans.values()], deckies: [...written.deckies.values()], edges: [...written.edges.values()],
    },
  } as unknown as GraphChanges;
}

/** What truncated changes do not tell of a decky that they changed. */
function withoutConfig(change: GraphChanges, table: keyof Graph): Partial<Decky> {
  return change.truncated && table === 'deckies' ? { decky_config: undefined, services: undefined } : {};
}

interface Flight {
  mutation: Mutation;
  /** Its place: what is enqueued goes behind all, what is claimed before all. */
  rank: number;
  here: boolean;
}

function inFlightAt(
  base: View, known: readonly JournalEvent[], later: readonly JournalEvent[], seq: number,
): Pick<View, 'in_flight' | 'in_flight_total'> {
  const flights = new Map<string, Flight>();
  // First, what was in flight before the first event that is known: claimed in the order of their positions.
  const enqueued = new Set<string>();
  const claim = new Map<string, JournalEvent>();
  for (const event of known) {
    const id = payloadOf(event).mutation_id;
    if (!id || !event.type.startsWith('mutation.')) continue;
    if (event.type === 'mutation.enqueued') enqueued.add(id);
    else if (!claim.has(id)) claim.set(id, event);
  }
  const first = (id: string, mutation: Mutation): void => {
    if (!enqueued.has(id) && !flights.has(id)) flights.set(id, { mutation, rank: flights.size, here: true });
  };
  for (const [id, event] of claim) {
    const { op } = payloadOf(event);
    const told = known.find((e) => e.type === 'mutation.applying' && payloadOf(e).mutation_id === id);
    const row = base.in_flight.find((m) => m.id === id);
    first(id, {
      ...(row ?? { id, topology_id: base.id, op: op!, payload: told && payloadOf(told).payload }),
      state: event.type === 'mutation.applying' ? 'pending' : 'applying',
    });
  }
  for (const row of base.in_flight) first(row.id, row);
  // Then, what the events up to the seq made of it.
  let front = -1;
  let back = flights.size;
  for (const event of known) {
    if (event.seq > seq) break;
    const { mutation_id: id, op, payload } = payloadOf(event);
    if (!id) continue;
    const flight = flights.get(id);
    if (event.type === 'mutation.enqueued') {
      const row = base.in_flight.find((m) => m.id === id);
      const mutation = row ?? { id, topology_id: base.id, op: op!, payload, requested_at: event.ts };
      flights.set(id, { mutation: { ...mutation, state: 'pending' }, rank: back++, here: true });
    } else if (flight && isFinish(event.type)) {
      flight.here = false;
    } else if (flight && /^mutation\.(applying|requeued)$/.test(event.type)) {
      const state = event.type === 'mutation.applying' ? 'applying' : 'pending';
      flight.mutation = { ...flight.mutation, state };
      flight.rank = front--;
    }
  }
  const count = (yes: (type: string) => boolean): number => later.filter((event) => yes(event.type)).length;
  const total = base.in_flight_total - count((type) => type === 'mutation.enqueued') + count(isFinish);
  let list = [...flights.values()].filter((flight) => flight.here).sort((a, b) => a.rank - b.rank);
  if (list.length !== total) {
    // The base lists the first ones only: what is behind them would stand beside what is missing.
    const listed = new Set(base.in_flight.map((m) => m.id));
    const finished = new Set(later.filter((e) => isFinish(e.type)).map((e) => payloadOf(e).mutation_id));
    list = list.filter(({ mutation: { id } }) => listed.has(id) || finished.has(id));
  }
  return { in_flight: list.map((flight) => flight.mutation), in_flight_total: total };
}
