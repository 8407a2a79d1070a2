// How a topology was at an older seq: walked back from a newer one by the events between.
//
// Graph: `before` of each change, backwards. What is in flight, version and status: from the events themselves; what
// none of them says is unknown, and is not guessed where a guess could be wrong.
import {
  applyGraph, type Decky, type Graph, type GraphChanges, type KnownEvents, type Mutation, type TopologyStatus,
} from 'topostream';
import type { JournalEvent } from './journal.ts';
import { transitions } from './lifecycle.ts';
import type { View } from './view.ts';

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

/** Whether the graph is defined after an event: a statement in parts (`more`) is one step, done with its last. */
export const isStop = (event: JournalEvent): boolean => changesOf(event)?.more !== true;

/**
 * Gives the view at `seq`. `base` is a newer one, or the same; `events` are all from some seq on, without a gap, and
 * reach base.seq at least. What lies before `seq` among them tells what the newer ones leave open: when the status was
 * set, and what a mutation's payload was. Between the parts of one statement the graph is as before the first.
 */
export function walkBack(base: View, events: readonly JournalEvent[], seq: number): View {
  const oldest = events[0]?.seq ?? base.seq + 1;
  const until = (n: number): number => Math.max(0, n - oldest + 1); // there is no gap
  const earlier = events.slice(0, until(seq));
  const later = events.slice(until(seq), until(base.seq));
  const { status, reason, guessed } = statusAt(base, earlier, later);
  return {
    ...base, seq, status, reason,
    version: versionAt(base, earlier, later),
    graph: graphAt(base.graph, earlier, later),
    ...inFlightAt(base, earlier, later),
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
  // A guess: a status that may become the next one; the same status where only the reason changed.
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
  // A statement whose end has not come is not in the base's graph: going back through it changes nothing.
  const changes = [...earlier.slice(open), ...later].map(changesOf).filter((c) => c !== null);
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

/** What the events tell of one mutation that was in flight at the seq. */
interface Told {
  enqueued?: JournalEvent;
  /** Its newest claim, or the end of its lease, up to the seq: it stands before all then. */
  moved?: JournalEvent;
  /** Its oldest event after the seq. */
  next?: JournalEvent;
  /** The event that tells what it is to do. */
  payload?: JournalEvent;
}

function inFlightAt(
  base: View, earlier: readonly JournalEvent[], later: readonly JournalEvent[],
): Pick<View, 'in_flight' | 'in_flight_total'> {
  const rows = new Map(base.in_flight.map((row) => [row.id, row]));
  const told = new Map<string, Told>(base.in_flight.map((row) => [row.id, {}]));
  const finished = new Set<string>();
  let total = base.in_flight_total;
  for (let i = later.length - 1; i >= 0; i--) {
    const event = later[i]!;
    const id = mutationOf(event);
    if (!id) continue;
    if (event.type === 'mutation.enqueued') {
      total--;
      told.delete(id);
      finished.delete(id);
      continue;
    }
    if (isFinish(event.type)) {
      total++;
      finished.add(id);
    }
    const one = told.get(id) ?? {};
    one.next = event;
    if (event.type === 'mutation.applying') one.payload = event;
    told.set(id, one);
  }
  // Going back, a mutation's oldest event is its enqueuing: once all of these are found, older events add nothing.
  let open = told.size;
  for (let i = earlier.length - 1; i >= 0 && open > 0; i--) {
    const event = earlier[i]!;
    const one = told.get(mutationOf(event) ?? '');
    if (!one) continue;
    if (event.type === 'mutation.enqueued') {
      one.enqueued = one.payload = event;
      open--;
    } else {
      one.moved ??= event;
      if (event.type === 'mutation.applying') one.payload ??= event;
    }
  }
  const known = [...told].map(([id, one]) => ({ id, one, row: rows.get(id) }));
  const all = known.toSorted((a, b) => inOrder(a.one, b.one));
  // The base may list the first ones only. Those that belong behind the missing ones are then left out, too.
  const list = all.length === total ? all : all.filter(({ id }) => rows.has(id) || finished.has(id));
  return {
    in_flight: list.map(({ id, one, row }) => ({ ...row ?? mutationFrom(base, id, one), state: stateOf(one, row) })),
    in_flight_total: total,
  };
}

/** A mutation that has ended since, as far as its events tell it. */
function mutationFrom(base: View, id: string, { payload, next, moved, enqueued }: Told): Omit<Mutation, 'state'> {
  const told = payloadOf((payload ?? next ?? moved)!);
  return {
    id, topology_id: base.id, op: told.op!, payload: payload && told.payload,
    ...(enqueued && { requested_at: enqueued.ts }),
  };
}

/** The mutation that an event is about; an event of one's own may say whatever it likes. */
const mutationOf = (event: JournalEvent): string | undefined =>
  (event.type.startsWith('mutation.') ? payloadOf(event).mutation_id : undefined);

/**
 * The order in which the client library lists what is in flight: claimed ones first, the newest claim before all; then
 * those from before the journal, which are claimed in the order of their positions; then by when they were enqueued.
 */
function inOrder(a: Told, b: Told): number {
  const group = ({ moved, enqueued, next }: Told): number => (moved ? 0 : enqueued ? 3 : next ? 1 : 2);
  const place = ({ moved, enqueued, next }: Told): number => (moved ? -moved.seq : (enqueued ?? next)?.seq ?? 0);
  return group(a) - group(b) || place(a) - place(b);
}

function stateOf({ moved, enqueued, next }: Told, row: Mutation | undefined): Mutation['state'] {
  if (moved) return moved.type === 'mutation.applying' ? 'applying' : 'pending';
  if (enqueued) return 'pending';
  if (next) return next.type === 'mutation.applying' ? 'pending' : 'applying';
  return row!.state;
}
