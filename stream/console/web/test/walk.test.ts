import fc from 'fast-check';
import { applyGraph, type Graph, type GraphChanges, type TopologyState, type TopologyStatus } from 'topostream';
import { expect, test } from 'vitest';
import { afterEvent } from '../../../client/js/src/replay.ts';
import type { JournalEvent } from '../src/state/journal.ts';
import { transitions } from '../src/state/lifecycle.ts';
import { viewOfHead, type View } from '../src/state/view.ts';
import { composeBackwards, isStop, walkBack } from '../src/state/walk.ts';

// ------------------------------------------------------------------ random histories, as a server makes them

type Row = Record<string, unknown>;
type Tables = { lans: Row[]; deckies: Row[]; edges: Row[] };
type Dice = (below: number) => number;
const tables = ['lans', 'deckies', 'edges'] as const;
const keyOf = (row: Row): unknown => row.id ?? row.uuid;
const pick = <T>(dice: Dice, from: readonly T[]): T | undefined => from[dice(Math.max(1, from.length))];

/** Changes a graph at random, and tells it as a `result` does. */
function change(graph: Graph, dice: Dice, name: () => string): GraphChanges {
  const now: Tables = structuredClone(graph) as unknown as Tables;
  for (let edits = 1 + dice(4); edits > 0; edits--) {
    const table = pick(dice, tables)!;
    const row = pick(dice, now[table]);
    switch (dice(3)) {
      case 0:
        if (table === 'lans') now.lans.push({ id: name(), topology_id: 't', name: name(), x: null, y: null });
        else if (table === 'deckies') {
          now.deckies.push({ uuid: name(), name: name(), services: [], decky_config: {}, state: 'up', x: null });
        } else {
          const lan = pick(dice, now.lans);
          const decky = pick(dice, now.deckies);
          if (lan && decky) now.edges.push({ id: name(), lan_id: lan.id, decky_uuid: decky.uuid, is_bridge: false });
        }
        break;
      case 1:
        if (!row) break;
        if (table === 'edges') row.is_bridge = !row.is_bridge;
        else {
          row.x = dice(100);
          if (dice(2)) row.name = name();
          if (table === 'deckies' && dice(2)) row.decky_config = { n: dice(9) };
        }
        break;
      default:
        if (!row) break;
        now[table] = now[table].filter((one) => one !== row);
        now.edges = now.edges.filter((edge) => edge.lan_id !== keyOf(row) && edge.decky_uuid !== keyOf(row));
    }
  }
  const result = {
    lans: [] as Row[], deckies: [] as Row[], edges: [] as Row[], removed: [] as Row[],
    before: { lans: [] as Row[], deckies: [] as Row[], edges: [] as Row[] },
  };
  for (const table of tables) {
    const old = new Map((graph[table] as unknown as Row[]).map((row) => [keyOf(row), row]));
    for (const row of now[table]) {
      const was = old.get(keyOf(row));
      old.delete(keyOf(row));
      if (was && JSON.stringify(was) === JSON.stringify(row)) continue;
      result[table].push(row);
      if (!was) continue;
      const differs = Object.entries(was).filter(([column, value]) =>
        column === 'id' || column === 'uuid' || JSON.stringify(value) !== JSON.stringify(row[column]));
      result.before[table].push(Object.fromEntries(differs));
    }
    for (const [id, row] of old) {
      result.removed.push({ table, id });
      result.before[table].push(row);
    }
  }
  return result as unknown as GraphChanges;
}

/** The parts of a statement's changes: rows that are not in one part are in another. */
function split(changes: GraphChanges, parts: number, dice: Dice): GraphChanges[] {
  const all = Array.from({ length: parts }, () => (
    { lans: [], deckies: [], edges: [], removed: [], before: { lans: [], deckies: [], edges: [] } } as unknown as
      Record<string, Row[]> & { before: Record<string, Row[]> }));
  const home = new Map<unknown, number>(); // a row is in one part, with what it was before
  const part = (id: unknown) => all[home.get(id) ?? home.set(id, dice(parts)).get(id)!]!;
  for (const table of tables) {
    for (const row of (changes[table] ?? []) as unknown as Row[]) part(keyOf(row))[table]!.push(row);
    for (const row of (changes.before?.[table] ?? []) as unknown as Row[]) {
      part(keyOf(row)).before[table]!.push(row);
    }
  }
  for (const gone of changes.removed ?? []) part(gone.id).removed!.push(gone as unknown as Row);
  return all.map((one, i) => (i < parts - 1 ? { ...one, more: true } : one)) as unknown as GraphChanges[];
}

interface History { readonly states: readonly TopologyState[]; readonly events: readonly JournalEvent[] }

/** Replays random events with the client library's own replay: states[i] is after events[i - 1]. */
function history(dice: Dice, steps: number): History {
  let names = 0;
  const name = (): string => `n${names++}`;
  const waiting = Array.from({ length: dice(4) }, name); // enqueued before all this, claimed in order
  let state: TopologyState = {
    id: 't', part: 'live', problem: null, seq: 100, status: 'pending', reason: null, version: dice(9), broken: null,
    in_flight: waiting.map((id, i) => ({
      id, topology_id: 't', op: 'add_lan', payload: { id }, state: 'pending', position: i, requested_by: 'somebody',
    })),
    in_flight_total: waiting.length, graph: { lans: [], deckies: [], edges: [] }, graph_pending: [],
  };
  const states = [state];
  const events: JournalEvent[] = [];
  const tell = (type: string, payload: unknown): void => {
    const event = { type, seq: state.seq! + 1, ts: `2026-11-29T14:00:00.${state.seq}Z`, payload };
    events.push(event);
    state = afterEvent(state, event);
    states.push(state);
  };
  tell('status', { state: 'deploying', reason: null });
  for (; steps > 0; steps--) {
    const pending = state.in_flight.filter((m) => m.state === 'pending' && !waiting.includes(m.id));
    const next = waiting.find((id) => state.in_flight.some((m) => m.id === id && m.state === 'pending'));
    const claimable = next ? state.in_flight.find((m) => m.id === next) : pick(dice, pending);
    const applying = pick(dice, state.in_flight.filter((m) => m.state === 'applying'));
    switch (dice(9)) {
      case 0:
      case 1:
        tell('mutation.enqueued', { mutation_id: name(), op: 'add_decky', payload: { n: dice(9) } });
        break;
      case 2:
      case 3:
        if (!claimable) break;
        tell('mutation.applying', { mutation_id: claimable.id, op: claimable.op, payload: claimable.payload });
        break;
      case 4:
        if (!applying) break;
        tell('mutation.applied', {
          mutation_id: applying.id, op: applying.op, version: state.version! + 1,
          result: change(state.graph!, dice, name),
        });
        break;
      case 5: {
        if (!applying) break;
        const { id, op } = applying;
        if (dice(3)) tell('mutation.failed', { mutation_id: id, op, version: state.version! + 1, reason: 'no' });
        else tell('mutation.requeued', { mutation_id: id, op, attempt: 2 });
        break;
      }
      case 6: {
        const changes = change(state.graph!, dice, name);
        for (const part of dice(3) ? [changes] : split(changes, 2 + dice(3), dice)) tell('graph', part);
        break;
      }
      case 7: {
        const to = pick(dice, transitions[state.status!]);
        if (to) tell('status', { state: to, reason: dice(2) ? `why ${dice(9)}` : null });
        break;
      }
      default:
        tell('hello', { mutation_id: 'not a mutation’s' });
    }
  }
  return { states, events };
}

/** The order of a graph's rows means nothing. */
function sorted(graph: Graph): unknown {
  return tables.map((table) =>
    (graph[table] as unknown as Row[]).toSorted((a, b) => String(keyOf(a)).localeCompare(String(keyOf(b)))));
}

function comparable(view: View): unknown {
  const { graph, at: _, unknown, ...rest } = view;
  return { ...rest, graph: sorted(graph), unknown: unknown ?? [] };
}

const dice = fc.infiniteStream(fc.nat({ max: 999 })).map((numbers): Dice =>
  (below) => (numbers.next().value as number) % below);

// ------------------------------------------------------------------ what must hold

test('walking back gives each former state exactly', () => {
  fc.assert(fc.property(dice, fc.nat({ max: 60 }), fc.nat({ max: 99 }), (roll, steps, share) => {
    const { states, events } = history(roll, steps);
    const from = states.length - 1 - Math.floor((states.length - 1) * share / 300); // the head, or a newer one
    const base = viewOfHead(states[from]!)!;
    for (let i = 1; i <= from; i++) {
      const view = walkBack(base, events, states[i]!.seq!);
      const plain = (one: View): View => ({ // what only the snapshot tells of a mutation that has ended is gone
        ...one, in_flight: one.in_flight.map(({ position: _, requested_by: __, ...m }) => m),
      });
      expect(comparable(plain(view))).toEqual(comparable(plain(viewOfHead(states[i]!)!)));
      expect(view.at).toBe(events[i - 1]!.ts);
    }
  }), { numRuns: 150 });
}, 60_000);

test('walking back from a state that was walked back to gives the same', () => {
  fc.assert(fc.property(dice, fc.nat({ max: 60 }), (roll, steps) => {
    const { states, events } = history(roll, steps);
    const stops = states.filter((_, i) => i > 0 && isStop(events[i - 1]!)).map((state) => state.seq!);
    const half = stops[stops.length >> 1]!;
    const head = viewOfHead(states.at(-1)!)!;
    const between = walkBack(head, events, half);
    for (const seq of stops) {
      if (seq > half) continue;
      expect(comparable(walkBack(between, events, seq))).toEqual(comparable(walkBack(head, events, seq)));
    }
  }), { numRuns: 100 });
}, 60_000);

test('one change that stands for many goes back as all of them, one after another', () => {
  fc.assert(fc.property(dice, fc.integer({ min: 1, max: 30 }), (roll, steps) => {
    let names = 0;
    let graph: Graph = { lans: [], deckies: [], edges: [] };
    const first = graph;
    const all: GraphChanges[] = [];
    for (let i = 0; i < steps; i++) {
      all.push(change(graph, roll, () => `n${names++}`));
      graph = applyGraph(graph, all.at(-1)!);
    }
    expect(sorted(applyGraph(graph, composeBackwards(all), true))).toEqual(sorted(first));
  }));
});

test('what truncated changes leave out of a decky is unknown, and known again before', () => {
  const decky = { uuid: 'd', name: 'web', services: ['ssh'], decky_config: { n: 3 }, state: 'up' };
  const event = (seq: number, payload: unknown): JournalEvent => ({ type: 'graph', seq, ts: `${seq}`, payload });
  const events = [
    event(1, { deckies: [decky] }),
    event(2, { deckies: [decky], before: { deckies: [{ uuid: 'd', services: [], decky_config: { n: 1 } }] } }),
    event(3, {
      truncated: true, deckies: [{ uuid: 'd', name: 'www' }], before: { deckies: [{ uuid: 'd', name: 'web' }] },
    }),
  ];
  const head = {
    id: 't', seq: 3, status: 'active', reason: null, version: 0, in_flight: [], in_flight_total: 0, at: null,
    graph: { lans: [], deckies: [{ ...decky, name: 'www' }], edges: [] },
  } as unknown as View;
  const at = (seq: number) => walkBack(head, events, seq).graph.deckies[0];
  expect(at(2)).toEqual({ ...decky, services: undefined, decky_config: undefined });
  expect(at(1)).toEqual({ ...decky, services: [], decky_config: { n: 1 } });
});

test('a status that was set before the journal begins is said to be unknown', () => {
  const status = (seq: number, state: TopologyStatus): JournalEvent =>
    ({ type: 'status', seq, ts: `${seq}`, payload: { state, reason: null } });
  const emitted: JournalEvent = { type: 'hello', seq: 6, ts: '6', payload: {} };
  const head = {
    id: 't', seq: 8, status: 'active', reason: null, version: 0, in_flight: [], in_flight_total: 0, at: null,
    graph: { lans: [], deckies: [], edges: [] },
  } as unknown as View;
  const { status: known, unknown } = walkBack(head, [emitted, status(7, 'deploying'), status(8, 'active')], 6);
  expect([known, unknown]).toEqual(['pending', ['the journal does not reach back to when this status was set']]);
  expect(walkBack(head, [emitted, status(7, 'deploying'), status(8, 'active')], 7).unknown).toEqual([]);
});
