// What the server sends, named as on the wire, and what the client makes of it.

export type TopologyStatus =
  'pending' | 'deploying' | 'active' | 'failed' | 'degraded' | 'tearing_down' | 'torn_down';

export interface Lan {
  readonly id: string;
  readonly topology_id: string;
  readonly name: string;
  readonly subnet: string;
  readonly is_dmz: boolean;
  readonly x: number | null;
  readonly y: number | null;
}

/** A decoy machine. `x` and `y` are relative to its home LAN, in pixels at zoom 1. */
export interface Decky {
  readonly uuid: string;
  readonly topology_id: string;
  readonly name: string;
  readonly services: unknown;
  readonly decky_config: unknown;
  readonly ip: string | null;
  readonly state: string;
  readonly x: number | null;
  readonly y: number | null;
}

export interface Edge {
  readonly id: string;
  readonly topology_id: string;
  readonly decky_uuid: string;
  readonly lan_id: string;
  readonly ip: string | null;
  readonly is_bridge: boolean;
  readonly forwards_l3: boolean;
}

/** LANs, deckies and edges. The order of rows means nothing. */
export interface Graph {
  readonly lans: readonly Lan[];
  readonly deckies: readonly Decky[];
  readonly edges: readonly Edge[];
}

/** The `result` of a mutation and the payload of a `graph` event: rows as they are now, and what was before. */
export interface GraphChanges extends Partial<Graph> {
  readonly removed?: readonly { readonly table: keyof Graph; readonly id: string }[];
  readonly before?: {
    readonly lans?: readonly Partial<Lan>[];
    readonly deckies?: readonly Partial<Decky>[];
    readonly edges?: readonly Partial<Edge>[];
  };
  /** One statement's changes come in parts, and this is not the last: the graph is defined only after that. */
  readonly more?: boolean;
  /** Deckies are without `decky_config` and `services`, because no event could hold them. */
  readonly truncated?: boolean;
}

/** A mutation in flight. What only the snapshot tells is missing in one that was enqueued later. */
export interface Mutation {
  readonly id: string;
  readonly topology_id: string;
  readonly op: string;
  readonly payload: unknown;
  readonly state: 'pending' | 'applying';
  readonly position?: number;
  readonly requested_by?: string | null;
  readonly requested_at?: string;
  readonly applied_at?: string | null;
  readonly reason?: string | null;
}

/** The state of a topology at `seq`. */
export interface Snapshot extends Partial<Graph> {
  readonly topology_id: string;
  readonly status: TopologyStatus;
  readonly reason: string | null;
  readonly version: number;
  readonly seq: number;
  /** A prefix by position; `in_flight_total` says how many there are. */
  readonly in_flight: readonly Mutation[];
  readonly in_flight_total: number;
}

/** A row of the list of topologies. */
export interface Summary {
  readonly id: string;
  readonly name: string;
  readonly status: TopologyStatus;
  readonly reason: string | null;
  readonly version: number;
  readonly created_at: string;
  readonly updated_at: string;
  readonly status_changed_at: string;
  readonly seq: number;
  readonly in_flight: number;
}

/** The payload of each type of event that the triggers record. */
export interface KnownEvents {
  'mutation.enqueued': { readonly mutation_id: string; readonly op: string; readonly payload: unknown };
  'mutation.applying': { readonly mutation_id: string; readonly op: string; readonly payload: unknown };
  'mutation.applied': {
    readonly mutation_id: string; readonly op: string; readonly version: number; readonly result: GraphChanges;
  };
  'mutation.failed': {
    readonly mutation_id: string; readonly op: string; readonly version: number; readonly reason: string | null;
  };
  'mutation.requeued': { readonly mutation_id: string; readonly op: string; readonly attempt: number };
  graph: GraphChanges;
  status: { readonly state: TopologyStatus; readonly reason: string | null };
  deleted: Record<string, never>;
}

/** An event of the journal: `seq` is the one before + 1. */
export interface Journaled<T extends string, P> {
  readonly kind: 'event';
  readonly type: T;
  readonly topology_id: string;
  readonly seq: number;
  readonly ts: string;
  readonly payload: P;
}

/** The topology as it is at `seq`. What came before is in it, and does not come again. */
export interface SnapshotEvent {
  readonly kind: 'snapshot';
  readonly type: 'snapshot';
  readonly topology_id: string;
  readonly seq: number;
  readonly payload: Snapshot;
}

/** A raw NOTIFY. It is in no journal, has no seq and changes no state, whatever type it claims. */
export interface RawEvent {
  readonly kind: 'raw';
  readonly type: string;
  readonly topology_id: string;
  readonly ts: string;
  readonly payload: unknown;
}

/** What is said about a part or about the stream, and is in no journal. Without a topology it is the whole stream's. */
export interface NoticeEvent {
  readonly kind: 'notice';
  readonly type: 'unavailable' | 'token_expired' | 'deleted';
  readonly topology_id: string | null;
  readonly payload: { readonly reason?: string; readonly topology_id?: string };
}

export type ListEvent =
  | { readonly kind: 'list'; readonly type: 'list';
      readonly payload: { readonly data: readonly Summary[]; readonly more: boolean } }
  | { readonly kind: 'list'; readonly type: 'topology'; readonly payload: Summary }
  | { readonly kind: 'list'; readonly type: 'removed'; readonly payload: { readonly id: string } };

type JournaledOf<M> = { [T in keyof M & string]: Journaled<T, M[T]> }[keyof M & string];

/**
 * Everything that a stream gives, discriminated by `kind` and, within events, by `type`. E adds events of one's own
 * (`topology_emit`): a type that maps their names to their payloads.
 */
export type StreamEvent<E = unknown> =
  JournaledOf<KnownEvents> | JournaledOf<E> | SnapshotEvent | RawEvent | NoticeEvent | ListEvent;

/**
 * How the promise was broken: `hole`: numbers are missing; `double`: an event came twice; `order`: one came after a
 * later one; `back`: a snapshot is older than what was there; `malformed`: no number, or not what was asked for.
 */
export interface Violation {
  readonly kind: 'hole' | 'double' | 'order' | 'back' | 'malformed';
  readonly topology_id: string | null;
  /** The number that had to come, or the least that a snapshot had to have; null where any would have been right. */
  readonly expected: number | null;
  readonly got: number | null;
}

/** A topology as the events so far make it. It never changes: each event makes a new one. */
export interface TopologyState {
  readonly id: string;
  /**
   * `waiting` for a first or a new snapshot; `live`; `unavailable`: asked for again by itself; `deleted` and `refused`
   * (the token does not hold for it): over. What is known stays in all of them.
   */
  readonly part: 'waiting' | 'live' | 'unavailable' | 'deleted' | 'refused';
  /** Why it is unavailable or refused. */
  readonly problem: string | null;
  /** What all the fields below are true at; null before the first snapshot. */
  readonly seq: number | null;
  readonly status: TopologyStatus | null;
  readonly reason: string | null;
  readonly version: number | null;
  readonly in_flight: readonly Mutation[];
  readonly in_flight_total: number;
  /** Null unless the stream was made with `graph`. */
  readonly graph: Graph | null;
  /** Changes of a statement whose last part has not come; `graph` is still without them. */
  readonly graph_pending: readonly GraphChanges[];
  /** The newest violation of the promise, if there was any. After a hole a new snapshot puts the state right. */
  readonly broken: Violation | null;
}

/**
 * The stream as a whole. `waiting`: it is tried again after `retry_in` milliseconds. `refused` is final (401, 403,
 * 404, …) until `reconnect()`. `ended`: every topology was deleted. `idle`: nothing is followed, or nobody listens.
 */
export type Connection =
  | { readonly state: 'idle' | 'connecting' | 'open' | 'ended' | 'closed' }
  | { readonly state: 'waiting'; readonly reason: string; readonly retry_in: number }
  | { readonly state: 'refused'; readonly status: number; readonly reason: string };

export interface StreamState {
  readonly connection: Connection;
  readonly topologies: Readonly<Record<string, TopologyState>>;
  /** The list of topologies, null until all of it has come. Its order means nothing. */
  readonly list: readonly Summary[] | null;
  /** Where `share` was given to the client of `topostream/tabs`. */
  readonly tabs?: Tabs | undefined;
}

/** How tabs share one stream. */
export interface Tabs {
  /** `alone`: they cannot share, because the page is not in a secure context (HTTPS, or localhost). */
  readonly role: 'leads' | 'follows' | 'alone';
  /** How many tabs have a stream of their own to this server; null where they share. */
  readonly count: number | null;
  /** From the fifth tab on that has a stream of its own: what is wrong, and the remedy. */
  readonly problem: string | null;
}
