// How snapshots and events make a topology's state.
import { applyGraph } from './graph.ts';
import type { GraphChanges, KnownEvents, Mutation, Snapshot, TopologyState } from './types.ts';

export function unknownState(id: string): TopologyState {
  return {
    id, part: 'waiting', problem: null, seq: null, status: null, reason: null, version: null, in_flight: [],
    in_flight_total: 0, graph: null, graph_pending: [], broken: null,
  };
}

/** What a tab sends to another: a snapshot in the middle of a split statement has parts pending. */
export type SharedSnapshot = Snapshot & { readonly graph_pending?: readonly GraphChanges[] };

export function afterSnapshot(state: TopologyState, s: SharedSnapshot): TopologyState {
  const { lans, deckies, edges } = s;
  return {
    ...state, part: 'live', problem: null, seq: s.seq, status: s.status, reason: s.reason, version: s.version,
    in_flight: s.in_flight, in_flight_total: s.in_flight_total,
    graph: lans && deckies && edges ? { lans, deckies, edges } : null, graph_pending: s.graph_pending ?? [],
  };
}

type Payload = Partial<
  Omit<KnownEvents['mutation.enqueued'] & KnownEvents['mutation.applied'] & KnownEvents['status'], 'reason'>
>;

/** Gives the state after the event that follows it. Types that it does not know change nothing but `seq`. */
export function afterEvent(
  state: TopologyState, event: { readonly type: string; readonly seq: number; readonly ts: string; payload: unknown },
): TopologyState {
  const { type, seq, ts } = event;
  const p = (event.payload ?? {}) as Payload & { reason?: string | null };
  const id = p.mutation_id ?? '';
  const others = (): Mutation[] => state.in_flight.filter((m) => m.id !== id);
  const here = state.in_flight.find((m) => m.id === id);
  const made = (as: Mutation['state']): Mutation =>
    here ? { ...here, state: as }
      : { id, topology_id: state.id, op: p.op ?? '', payload: p.payload ?? null, state: as };
  const next = { ...state, seq, part: 'live' as const, problem: null };
  switch (type) {
    case 'mutation.enqueued':
      // The list is a prefix by position: where it does not hold all, what is new belongs behind what is missing.
      return {
        ...next, in_flight_total: state.in_flight_total + 1,
        in_flight: state.in_flight.length < state.in_flight_total ? state.in_flight
          : [...state.in_flight, { ...made('pending'), requested_at: ts }],
      };
    case 'mutation.applying':
    case 'mutation.requeued':
      // Mutations are applied in order: what is not in the prefix when its turn comes is the first of all.
      return {
        ...next, in_flight: here || type === 'mutation.applying'
          ? [made(type === 'mutation.applying' ? 'applying' : 'pending'), ...others()] : state.in_flight,
      };
    case 'mutation.applied':
    case 'mutation.failed': {
      const total = Math.max(0, state.in_flight_total - 1);
      const done = { ...next, version: p.version ?? state.version, in_flight: others(), in_flight_total: total };
      return type === 'mutation.applied' && p.result ? withChanges(done, p.result) : done;
    }
    case 'graph':
      return withChanges(next, event.payload as GraphChanges);
    case 'status':
      return { ...next, status: p.state ?? state.status, reason: p.reason ?? null };
    case 'deleted':
      return { ...next, part: 'deleted' };
    default:
      return next;
  }
}

function withChanges(state: TopologyState, changes: GraphChanges): TopologyState {
  if (!state.graph) return state;
  const pending = [...state.graph_pending, changes];
  if (changes.more) return { ...state, graph_pending: pending };
  return { ...state, graph: pending.reduce((graph, part) => applyGraph(graph, part), state.graph), graph_pending: [] };
}
