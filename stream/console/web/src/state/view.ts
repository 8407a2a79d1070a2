import type { Graph, Mutation, TopologyState, TopologyStatus } from 'topostream';

/** A topology at one seq, with its graph. */
export interface View {
  readonly id: string;
  readonly seq: number;
  readonly status: TopologyStatus;
  readonly reason: string | null;
  readonly version: number;
  readonly graph: Graph;
  readonly in_flight: readonly Mutation[];
  readonly in_flight_total: number;
  /** When it was so, of an older seq; null of the head. */
  readonly at: string | null;
  /** What of an older seq is not known, in sentences. */
  readonly unknown?: readonly string[];
}

/** Gives the view of the newest state; null before the first snapshot. */
export function viewOfHead(topology: TopologyState | null): View | null {
  if (!topology || topology.seq === null || !topology.graph || topology.status === null) return null;
  const { id, seq, status, reason, version, graph, in_flight, in_flight_total } = topology;
  return { id, seq, status, reason, version: version ?? 0, graph, in_flight, in_flight_total, at: null };
}
