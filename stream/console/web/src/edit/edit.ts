// Editing as the page has it: what is staged for each topology, its way to the server, and what came of it.
import { batch, computed, effect, signal, type ReadonlySignal, type Signal } from '@preact/signals';
import type { Graph, GraphChanges, StreamEvent, TopologyState } from 'topostream';
import type { Ghost } from '../graph/ghost.ts';
import { readJournal, type JournalEvent } from '../state/journal.ts';
import type { Live } from '../state/live.ts';
import { Problem, type Rest } from '../state/rest.ts';
import type { RouteState, Selection } from '../state/route.ts';
import { viewOfHead, type View } from '../state/view.ts';
import { describeAll, describeChanges, type Line } from './diff.ts';
import { createKeep } from './kept.ts';
import { opsOf, type Op } from './ops.ts';
import { ghosts, preview, stagedId } from './preview.ts';
import { rebase, type Outcome } from './rebase.ts';
import * as stagedOps from './staged.ts';
import type { Staged } from './staged.ts';

/** What others have done since staging began. */
export interface Other {
  readonly seq: number;
  /** Who asked for it, or how it came. */
  readonly by: string;
  readonly lines: readonly Line[];
}

/** How far a change set is on its way to the server. What is staged stays until it is applied. */
export type Sending =
  | { readonly state: 'none' | 'sending' }
  | { readonly state: 'waiting'; readonly mutation: string }
  | { readonly state: 'applied'; readonly version: number; readonly count: number }
  /** A rule refused it; index is of the op, null where the reason names none. */
  | { readonly state: 'failed'; readonly reason: string; readonly index: number | null }
  /** The server did not take it: it says why. */
  | { readonly state: 'refused'; readonly reason: string }
  /** No answer came: it may have been taken, and applying it again finds out. */
  | { readonly state: 'unanswered'; readonly reason: string }
  /** `more` events, the newest ones or those that the journal holds no more, are not among `others`. */
  | { readonly state: 'conflict'; readonly reason: string; readonly others: readonly Other[]; readonly more: number };

/** What the ops were staged for. */
interface Base {
  readonly graph: Graph;
  readonly seq: number;
  /** Version + mutations in flight, as the server counts `expected_version`: how many were ever enqueued. */
  readonly expected: number;
}

/** A mutation that this page has enqueued. */
interface Own {
  readonly topology: string;
  /** The seq of its mutation.enqueued; Infinity, later than every base, until that event has come. */
  readonly seq: number;
}

/** What editing holds for one topology. */
interface Desk {
  readonly staged: Staged;
  readonly base: Base | null;
  readonly sending: Sending;
}

export interface Edit {
  readonly staged: ReadonlySignal<Staged>;
  /** The graph with what is staged; null while nothing is open. */
  readonly graph: ReadonlySignal<Graph | null>;
  /** What each staged op says, of the graph that it was staged for. */
  readonly lines: ReadonlySignal<readonly Line[]>;
  /** What becomes of each staged op on the graph as it is now. */
  readonly outcomes: ReadonlySignal<readonly Outcome[]>;
  readonly sending: ReadonlySignal<Sending>;
  /** A sentence about what was just asked for: why it cannot be, or what it did not do. */
  readonly notice: Signal<string | null>;
  /** Stages ops as one step; if that cannot be, gives the reason and shows it as the notice. */
  readonly stage: (...ops: Op[]) => true | string;
  /** Whether ops could be staged now; otherwise why not. */
  readonly check: (...ops: Op[]) => true | string;
  /** Stages ops that something else has made, and says what they are. */
  readonly propose: (ops: readonly { readonly op: string; readonly payload: unknown }[], note: string) => void;
  readonly unstage: (index: number) => void;
  readonly undo: () => void;
  readonly redo: () => void;
  readonly discard: () => void;
  readonly apply: () => Promise<void>;
  /** Puts what can still be done onto the graph as it is now. */
  readonly rebase: () => void;
  readonly dismiss: () => void;
  /** Sends a new place at once, or stages it for what is itself staged. */
  readonly move: (target: Selection, to: { readonly x: number; readonly y: number }) => Promise<void>;
}

interface Parts {
  readonly route: RouteState;
  readonly rest: Rest;
  readonly live: Live;
  readonly shown: ReadonlySignal<View | null>;
  readonly past: ReadonlySignal<View | null>;
  readonly ghosts: Signal<readonly Ghost[]>;
  readonly editable: ReadonlySignal<true | string>;
}

const emptyDesk: Desk = { staged: stagedOps.nothing, base: null, sending: { state: 'none' } };

/** How many events since staging began are kept; as many are in a page of the journal. */
const kept = 500;

/** How many pages of the journal are read to say what others have done: nobody reads more. */
const pages = 4;

/** How many mutations in flight are drawn. */
const drawn = 100;

export function createEdit(window: Window & typeof globalThis, parts: Parts): Edit {
  const { route, rest, live, shown, past, editable } = parts;
  const keep = createKeep(window.sessionStorage);
  const own = new Map<string, Own>(); // by mutation; as many as somebody makes by hand, and none is forgotten
  const ownSince = (id: string, since: number): string[] =>
    [...own].flatMap(([mutation, { topology: of, seq }]) => of === id && seq > since ? [mutation] : []);
  const desks = signal<ReadonlyMap<string, Desk>>(new Map([...keep.load()].map(([id, kept]) => {
    for (const mutation of kept.own) own.set(mutation, { topology: id, seq: Infinity });
    const { base, waiting, own: _, ...ops } = kept;
    return [id, { staged: ops, base, sending: waiting ? { state: 'waiting', mutation: waiting } : { state: 'none' } }];
  })));
  const notice = signal<string | null>(null);
  const topology = computed(() => route.current.value.topology ?? '');
  const head = computed(() => viewOfHead(live.open.value));
  const desk = computed(() => desks.value.get(topology.value) ?? emptyDesk);
  const set = (id: string, change: Partial<Desk>): void => {
    desks.value = new Map(desks.peek()).set(id, { ...(desks.peek().get(id) ?? emptyDesk), ...change });
    keepDesk(id);
  };
  const keepDesk = (id: string): void => {
    const { staged: ops, base, sending: way } = desks.peek().get(id) ?? emptyDesk;
    keep.put(id, base && ops.ops.length ? {
      ...ops, base, waiting: way.state === 'waiting' ? way.mutation : null, own: ownSince(id, base.seq),
    } : null);
  };
  const staged = computed(() => desk.value.staged);
  const sending = computed(() => desk.value.sending);
  const graph = computed(() => head.value && preview(head.value.graph, staged.value.ops).graph);
  const outcomes = computed((): readonly Outcome[] => {
    const { base, staged: { ops } } = desk.value;
    return head.value && base ? rebase(base.graph, head.value.graph, ops) : [];
  });

  const lines = computed(() => {
    const { base, staged: { ops } } = desk.value;
    return base ? describeAll(ops, base.graph) : [];
  });

  // ---------------------------------------------------------- what the stream says

  const finished = new Map<string, (id: string) => void>(); // what to do with a mutation that has ended
  const enqueued = new Map<string, number>(); // seq of mutation.enqueued: it may come before the answer to the request
  let since: StreamEvent[] = [];
  const remember = <V>(map: Map<string, V>, key: string, value: V): void => {
    map.set(key, value);
    if (map.size > 2000) map.delete(map.keys().next().value!);
  };

  const end = (mutation: string, take: (id: string) => void): void => {
    remember(finished, mutation, take);
    for (const [id, { sending: now }] of desks.peek()) {
      if (now.state === 'waiting' && now.mutation === mutation) take(id);
    }
  };

  const applied = (version: number) => (id: string): void => {
    const count = desks.peek().get(id)?.staged.ops.length ?? 0;
    set(id, { staged: stagedOps.nothing, base: null, sending: { state: 'applied', version, count } });
  };
  const failed = (reason: string) => (id: string): void => {
    const index = /^ops\[(\d+)\]: /.exec(reason)?.[1];
    set(id, { sending: { state: 'failed', reason, index: index === undefined ? null : Number(index) } });
  };

  live.onEvent((event) => {
    if (event.kind === 'snapshot') {
      // A mutation that the snapshot holds gets no event any more: it counts as enqueued by then. One that the snapshot
      // does not hold yet gets its event later, which corrects this.
      for (const [mutation, one] of own) {
        if (one.topology === event.topology_id && one.seq === Infinity) own.set(mutation, { ...one, seq: event.seq });
      }
      void lookUp(event.topology_id);
    }
    if (event.kind !== 'event') return;
    since = [...since.slice(-kept + 1), event];
    if (event.type === 'mutation.enqueued') {
      const { topology_id, seq, payload: { mutation_id } } = event;
      if (own.has(mutation_id)) own.set(mutation_id, { topology: topology_id, seq });
      else remember(enqueued, mutation_id, seq);
    }
    if (event.type === 'mutation.applied') {
      end(event.payload.mutation_id, applied(event.payload.version));
    }
    if (event.type === 'mutation.failed') {
      end(event.payload.mutation_id, failed(event.payload.reason ?? 'no reason was given'));
    }
  });

  /** The topology if it is the one that is open. To be asked again after each await: another may be open by then. */
  const openAs = (id: string): TopologyState | null => {
    const open = live.open.peek();
    return open?.id === id ? open : null;
  };

  /** After a snapshot the event that ended a mutation may never come: the list of mutations says what became of it. */
  const lookUp = async (id: string): Promise<void> => {
    const { sending: now } = desks.peek().get(id) ?? emptyDesk;
    if (now.state !== 'waiting') return;
    type Row = { readonly id: string; readonly state: string; readonly reason: string | null };
    const rows = await rest.send<readonly Row[]>('GET', `/topologies/${id}/mutations?limit=200`).catch(() => []);
    const row = rows.find((one) => one.id === now.mutation);
    const open = openAs(id);
    // The version of a topology that is no longer open is not known. When it is opened, its snapshot leads here again.
    if (row?.state === 'applied' && open) end(row.id, applied(open.version ?? 0));
    if (row?.state === 'failed') end(row.id, failed(row.reason ?? 'no reason was given'));
  };

  interface Since {
    readonly events: readonly JournalEvent[];
    /** How many events after the seq are not among them. */
    readonly more: number;
  }

  /** The events after a seq: those that this page has received, or, if some of them are missing, the journal's. */
  const eventsSince = async (id: string, seq: number): Promise<Since> => {
    const received = since.flatMap((event) =>
      event.kind === 'event' && event.topology_id === id && event.seq > seq ? [event as unknown as JournalEvent] : []);
    const lastOf = (events: readonly JournalEvent[]): number => events.at(-1)?.seq ?? seq;
    const now = openAs(id)?.seq ?? Infinity; // if it is not open, only the journal knows how far it goes
    const newest = lastOf(received);
    if (newest === seq + received.length && newest >= now) return { events: received, more: 0 };
    const events: JournalEvent[] = [];
    let head = now === Infinity ? seq : now;
    for (let page = 0; page === 0 || page < pages && lastOf(events) < head; page++) {
      const read = await readJournal(rest, id, lastOf(events), kept).catch(() => null);
      head = Math.max(head, read?.head ?? 0);
      if (!read?.events.length) break;
      events.push(...read.events);
    }
    return { events, more: Math.max(head, lastOf(events)) - seq - events.length };
  };

  /** What others have done since staging began, with who asked for it. */
  const othersSince = async (id: string, base: Base): Promise<{ others: readonly Other[]; more: number }> => {
    type Row = { readonly id: string; readonly state: string; readonly requested_by: string | null };
    const rows = await rest.send<readonly Row[]>('GET', `/topologies/${id}/mutations?limit=200`).catch(() => []);
    const by = new Map(rows.map((row) => [row.id, row.requested_by ?? 'by hand']));
    const { events, more } = await eventsSince(id, base.seq);
    const open = openAs(id);
    const waiting = open?.in_flight ?? rows.filter(({ state }) => state === 'pending' || state === 'applying');
    const names = viewOfHead(open)?.graph ?? base.graph;
    const others = events.flatMap((event): Other[] => {
      if (event.type === 'graph') {
        return [{ seq: event.seq, by: 'by hand', lines: describeChanges(event.payload as GraphChanges, names) }];
      }
      if (event.type !== 'mutation.applied' && event.type !== 'mutation.enqueued') return [];
      const { mutation_id, op } = event.payload as { mutation_id: string; op: string };
      if (own.has(mutation_id)) return [];
      const who = by.get(mutation_id) ?? 'somebody'; // the list names the newest mutations alone
      if (event.type === 'mutation.applied') {
        const { result } = event.payload as { result: GraphChanges };
        return [{ seq: event.seq, by: who, lines: describeChanges(result, names) }];
      }
      if (!waiting.some((one) => one.id === mutation_id)) return [];
      return [{ seq: event.seq, by: who, lines: [{ sign: '~', text: `${op} is being applied` }] }];
    });
    return { others, more };
  };

  // ---------------------------------------------------------- staging

  const busy = (): string | null => sending.peek().state === 'sending' || sending.peek().state === 'waiting'
    ? 'the staged edits are being applied: wait until they are done' : null;

  const attempt = (...ops: Op[]): Staged | string => {
    const now = head.peek();
    const reason = editable.peek() !== true ? editable.peek() as string : busy();
    if (reason) return reason;
    if (!now) return 'nothing is open';
    return stagedOps.stage(staged.peek(), now.graph, ...ops);
  };

  const baseOf = ({ graph, seq, version, in_flight_total }: View): Base =>
    ({ graph, seq, expected: version + in_flight_total });

  /** Takes another state of what is staged; staging begins with the first op. */
  const put = (next: Staged): void => {
    const now = head.peek();
    if (!now) return;
    const base = next.ops.length === 0 ? null : desk.peek().base ?? baseOf(now);
    set(now.id, { staged: next, base, sending: { state: 'none' } });
  };

  const say = (reason: string): string => {
    notice.value = reason;
    return reason;
  };

  const step = (how: (now: Staged) => Staged): void => {
    const reason = busy();
    if (reason) say(reason);
    else put(how(staged.peek()));
  };

  // ---------------------------------------------------------- the server

  /** A change set that no answer has come to is sent again as it was, under its key: it is done once. */
  let unanswered: { readonly of: string; readonly body: object; readonly key: string } | null = null;
  const newKey = (): string => Array.from(window.crypto.getRandomValues(new Uint8Array(16)),
    (byte) => byte.toString(16).padStart(2, '0')).join('');

  const outstanding = new Set<Promise<unknown>>();
  const enqueue = async (id: string, body: object, key: string): Promise<string> => {
    const path = `/topologies/${id}/mutations`;
    const request = rest.send<{ mutation_id: string }>('POST', path, body, { 'Idempotency-Key': key });
    const settled = request.then(() => {}, () => {});
    outstanding.add(settled);
    try {
      const { mutation_id } = await request;
      own.set(mutation_id, { topology: id, seq: enqueued.get(mutation_id) ?? Infinity });
      keepDesk(id);
      return mutation_id;
    } finally {
      outstanding.delete(settled);
    }
  };

  const conflict = async (id: string, base: Base, reason: string): Promise<void> => {
    const found = await othersSince(id, base);
    set(id, { sending: { state: 'conflict', reason, ...found } });
  };

  const apply = async (): Promise<void> => {
    const { staged: { ops }, base } = desk.peek();
    const id = topology.peek();
    const reason = editable.peek() !== true ? editable.peek() as string : busy();
    if (reason) say(reason);
    if (reason || !base || !ops.length) return;
    notice.value = null;
    set(id, { sending: { state: 'sending' } });
    const of = JSON.stringify([id, ops, base.expected]);
    if (unanswered?.of !== of) {
      // A change by hand does not raise the version, so the server would not call it a conflict.
      if (outcomes.peek().some(({ state }) => state === 'conflict')) {
        await conflict(id, base, 'what is staged does not fit what others have changed meanwhile');
        return;
      }
      await Promise.all(outstanding); // moves that are being sent: they raise expected_version
      const expected_version = base.expected + ownSince(id, base.seq).length;
      unanswered = { of, body: { op: 'changeset', payload: { ops }, expected_version }, key: newKey() };
    }
    const { body, key } = unanswered;
    try {
      const mutation = await enqueue(id, body, key);
      unanswered = null;
      set(id, { sending: { state: 'waiting', mutation } });
      finished.get(mutation)?.(id); // it may have ended before the answer came
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (error.status === 0) {
        set(id, { sending: { state: 'unanswered', reason: error.message } });
        return;
      }
      unanswered = null;
      if (error.status === 409 && error.message.startsWith('expected_version')) await conflict(id, base, error.message);
      else set(id, { sending: { state: 'refused', reason: error.message } });
    }
  };

  const move: Edit['move'] = async ({ kind, key }, to) => {
    const now = head.peek();
    if (!now) return;
    const place = { x: Math.round(to.x * 100) / 100, y: Math.round(to.y * 100) / 100 };
    const from = key.startsWith(stagedId) ? graph.peek()! : now.graph;
    const lan = kind === 'lan' && from.lans.find(({ id }) => id === key);
    const decky = kind === 'decky' && from.deckies.find(({ uuid }) => uuid === key);
    const op: Op | null = lan ? { op: 'update_lan', payload: { name: lan.name, ...place } }
      : decky ? { op: 'update_decky', payload: { decky: decky.name, ...place } } : null;
    if (!op) return;
    if (from !== now.graph) {
      edit.stage(op);
      return;
    }
    if (editable.peek() !== true) {
      say(editable.peek() as string);
      return;
    }
    try {
      await enqueue(now.id, op, newKey());
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      say(`it was not moved: ${error.message}`);
    }
  };

  const edit: Edit = {
    staged, graph, lines, outcomes, sending, notice,
    check: (...ops) => {
      const next = attempt(...ops);
      return typeof next === 'string' ? next : true;
    },
    stage: (...ops) => {
      const next = attempt(...ops);
      if (typeof next === 'string') return say(next);
      batch(() => {
        notice.value = null;
        put(next);
      });
      return true;
    },
    propose: (ops, note) => {
      const known = opsOf('changeset', { ops });
      if (ops.length === 0) say(note);
      else if (known.length === 0) say(`${note}: the page does not know one of the ops`);
      else if (edit.stage(...known) === true) say(note);
    },
    unstage: (index) => step((now) => head.peek() ? stagedOps.unstage(now, head.peek()!.graph, index) : now),
    undo: () => step(stagedOps.undo),
    redo: () => step(stagedOps.redo),
    discard: () => step((now) => stagedOps.replace(now, [])),
    apply,
    rebase: () => {
      const now = head.peek();
      if (!now) return;
      const ops = outcomes.peek().filter(({ state }) => state !== 'conflict').map(({ op }) => op);
      set(now.id, {
        staged: stagedOps.replace(staged.peek(), ops), base: ops.length ? baseOf(now) : null,
        sending: { state: 'none' },
      });
    },
    dismiss: () => batch(() => {
      notice.value = null;
      if (!busy()) set(topology.peek(), { sending: { state: 'none' } });
    }),
    move,
  };

  // ---------------------------------------------------------- what the graph draws dashed

  const none: readonly Ghost[] = [];
  effect(() => {
    const view = shown.value;
    if (!view) {
      parts.ghosts.value = none;
      return;
    }
    let on = view.graph;
    const all: Ghost[] = [];
    const draw = (ops: readonly Op[], phase: Ghost['phase']): void => {
      if (!ops.length) return;
      const next = preview(on, ops).graph;
      if (next !== on) all.push(...ghosts(on, next, phase));
      on = next;
    };
    for (const phase of ['applying', 'pending'] as const) {
      draw(view.in_flight.filter(({ state }) => state === phase).slice(0, drawn)
        .flatMap(({ op, payload }) => opsOf(op, payload)), phase);
    }
    const { sending: now, staged: { ops } } = desk.value;
    const asked = now.state === 'waiting' && view.in_flight.some(({ id }) => id === now.mutation);
    if (!past.value && !asked) draw(ops, 'staged');
    // The same array while it says the same: for another one the whole scene is made anew.
    const had = parts.ghosts.peek();
    if (!all.length) parts.ghosts.value = none;
    else if (JSON.stringify(all) !== JSON.stringify(had)) parts.ghosts.value = all;
  });
  effect(() => { // a notice is about one topology
    void topology.value;
    notice.value = null;
  });
  window.addEventListener('beforeunload', (event) => {
    // What is kept is here again after a reload.
    if ([...desks.peek()].some(([id, { staged: { ops } }]) => ops.length > 0 && !keep.has(id))) event.preventDefault();
  });
  return edit;
}
