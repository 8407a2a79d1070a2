// How snapshots and events make a topology's state.
import { applyGraph } from './graph.ts';
import type { GraphChanges, KnownEvents, Mutation, Snapshot, TopologyState } from './types.ts';

export function unknownState(id: string): TopologyState {
  return {
    id, part: 'waiting', problem: null, seq: null, status: null, reason: null, version: null, in_flight: [],
    in_flight_total: 0, graph: null, graph_pending: [], broken: null,
  };
}

export function afterSnapshot(state: TopologyState, snapshot: Snapshot): TopologyState {
  const { topology_id, lans, deckies, edges, ...rest } = snapshot;
  const graph = lans && deckies && edges ? { lans, deckies, edges } : null;
  return { ...state, ...rest, part: 'live', problem: null, graph, graph_pending: [] };
}

type Payload = Partial<
  Omit<KnownEvents['mutation.enqueued'] & KnownEvents['mutation.applied'] & KnownEvents['status'], 'reason'>
>;

/** Gives the state after the event that follows it. Types that it does not know change nothing but `seq`. */
export function afterEvent(
  state: TopologyState, event: { readonly type: string; readonly seq: number; readonly ts: string; payload: unknown },
): TopologyState {
  const { type, seq, ts, payload } = event;
  const p = (payload ?? {}) as Payload & { reason?: string | null };
  const id = p.mutation_id!;
  const { in_flight, in_flight_total } = state;
  const here = in_flight.find((m) => m.id === id);
  const others = in_flight.filter((m) => m !== here);
  const moved: Mutation = {
    ...(here ?? { id, topology_id: state.id, op: p.op!, payload: p.payload }),
    state: type === 'mutation.applying' ? 'applying' : 'pending',
  };
  const next = { ...state, seq, part: 'live' as const, problem: null };
  switch (type) {
    case 'mutation.enqueued':
      // The list is a prefix by position: where it does not hold all, what is new belongs behind what is missing.
      if (in_flight.length === in_flight_total) next.in_flight = [...others, { ...moved, requested_at: ts }];
      return { ...next, in_flight_total: in_flight_total + 1 };
    case 'mutation.requeued':
    case 'mutation.applying':
      // Mutations are applied in order: what is not in the prefix when its turn comes is the first of all.
      return here || p.payload !== undefined ? { ...next, in_flight: [moved, ...others] } : next;
    case 'mutation.applied':
    case 'mutation.failed':
      return withChanges(
        { ...next, version: p.version!, in_flight: others, in_flight_total: in_flight_total - 1 },
        p.result,
      );
    case 'graph':
      return withChanges(next, payload as GraphChanges);
    case 'status':
      return { ...next, status: p.state!, reason: p.reason ?? null };
    case 'deleted':
      return { ...next, part: 'deleted' };
    default:
      return next;
  }
}

function withChanges(state: TopologyState, changes: GraphChanges | undefined): TopologyState {
  if (!state.graph || !changes) return state;
  const pending = [...state.graph_pending, changes];
  if (changes.more) return { ...state, graph_pending: pending };
  return { ...state, graph: pending.reduce((graph, part) => applyGraph(graph, part), state.graph), graph_pending: [] };
}
