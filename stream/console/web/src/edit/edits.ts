// What people do, as ops: pure, so that menus, keys and drops do the same.
import type { Decky, Edge, Graph, Lan } from 'topostream';
import type { Selection } from '../state/route.ts';
import { deckyNames, lanNames, nextName } from './names.ts';
import type { Op } from './ops.ts';
import { asRecord, isGateway, preview } from './preview.ts';

export const findLan = (graph: Graph, key: string | null | undefined): Lan | undefined =>
  graph.lans.find(({ id }) => id === key) ?? graph.lans.find(({ name }) => name === key);
export const findDecky = (graph: Graph, key: string | null | undefined): Decky | undefined =>
  graph.deckies.find(({ uuid }) => uuid === key) ?? graph.deckies.find(({ name }) => name === key);
export const findEdge = (graph: Graph, key: string): Edge | undefined => graph.edges.find(({ id }) => id === key);

/** The LAN that is a decky's home; none when somebody removed that edge by hand. */
export function homeOf(graph: Graph, decky: Decky): Lan | undefined {
  const home = graph.edges.find((edge) => edge.decky_uuid === decky.uuid && !edge.is_bridge);
  return graph.lans.find(({ id }) => id === home?.lan_id);
}

/** The services that an op can name: whatever else a hand wrote there is left out. */
export const namedServices = (decky: Decky): string[] =>
  Array.isArray(decky.services) ? decky.services.filter((word) => typeof word === 'string') : [];

const round = (n: number): number => Math.round(n * 100) / 100;
const placeOf = ({ x, y }: { x: number | null; y: number | null }, by = 0): { x?: number; y?: number } =>
  x === null || y === null ? {} : { x: round(x + by), y: round(y + by) };

/** Removes what is selected: edges are detached, a LAN goes with the deckies whose home it is. */
export function removal(graph: Graph, targets: readonly Selection[]): Op[] {
  const lans = new Set(targets.flatMap(({ kind, key }) => kind === 'lan' && findLan(graph, key) || []));
  const deckies = new Set(targets.flatMap(({ kind, key }) => kind === 'decky' && findDecky(graph, key) || []));
  for (const decky of graph.deckies) {
    const home = homeOf(graph, decky);
    if (home && lans.has(home)) deckies.add(decky);
  }
  const ops: Op[] = [];
  for (const { kind, key } of targets) {
    const edge = kind === 'edge' && findEdge(graph, key);
    const decky = edge && findDecky(graph, edge.decky_uuid);
    const lan = edge && findLan(graph, edge.lan_id);
    if (!decky || !lan || deckies.has(decky) || lans.has(lan)) continue;
    ops.push({ op: 'detach_decky', payload: { decky: decky.name, lan: lan.name } });
  }
  const sorted = (rows: Iterable<{ readonly name: string }>): string[] => [...rows].map(({ name }) => name).sort();
  for (const decky of sorted(deckies)) ops.push({ op: 'remove_decky', payload: { decky } });
  for (const name of sorted(lans)) ops.push({ op: 'remove_lan', payload: { name } });
  return ops;
}

/** Ops that copy a decky under another name: into its own LANs, or into the one that is given. */
function copyOf(graph: Graph, decky: Decky, lan: Lan | undefined, taken: string[], by: number): Op[] {
  const home = lan ?? homeOf(graph, decky);
  if (!home) return [];
  const name = nextName(decky.name, taken);
  taken.push(name);
  const { archetype, forwards_l3: _, ...patch } = asRecord(decky.decky_config) ?? {};
  const services = namedServices(decky);
  const ops: Op[] = [{
    op: 'add_decky',
    payload: {
      name, lan: home.name, ...(services.length && { services }),
      ...(typeof archetype === 'string' && archetype && { archetype }),
      ...(isGateway(graph, decky) && { forwards_l3: true }), ...placeOf(decky, by),
    },
  }];
  if (Object.keys(patch).length) ops.push({ op: 'update_decky', payload: { decky: name, patch } });
  if (lan) return ops;
  for (const edge of graph.edges) {
    const other = edge.decky_uuid === decky.uuid && edge.is_bridge && findLan(graph, edge.lan_id);
    if (!other) continue;
    const { forwards_l3 } = edge;
    ops.push({ op: 'attach_decky', payload: { decky: name, lan: other.name, ...(forwards_l3 && { forwards_l3 }) } });
  }
  return ops;
}

/** Ops that copy what is selected, a little beside it; a LAN with the deckies that live in it. */
export function duplicates(graph: Graph, targets: readonly Selection[]): Op[] {
  const taken = deckyNames(graph);
  const ops: Op[] = [];
  const names = lanNames(graph);
  for (const { kind, key } of targets) {
    const decky = kind === 'decky' && findDecky(graph, key);
    if (decky) ops.push(...copyOf(graph, decky, undefined, taken, 24));
    const lan = kind === 'lan' && findLan(graph, key);
    if (!lan) continue;
    const name = nextName(lan.name, names);
    names.push(name);
    ops.push({ op: 'add_lan', payload: { name, ...placeOf(lan, 48) } });
    for (const member of graph.deckies) {
      if (homeOf(graph, member) === lan) ops.push(...copyOf(graph, member, { ...lan, name }, taken, 0));
    }
  }
  return ops;
}

/** Ops that put deckies, copied from a graph, into a LAN. */
export function paste(graph: Graph, copied: Graph, lan: Lan): Op[] {
  const taken = deckyNames(graph);
  return copied.deckies.flatMap((decky) => copyOf(copied, decky, lan, taken, 24));
}

/** A home cannot change, so the decky is removed, and one of its name added in the other LAN, attached as before. */
export function rehome(graph: Graph, decky: Decky, to: Lan): Op[] {
  const ops: Op[] = [{ op: 'remove_decky', payload: { decky: decky.name } }];
  const rest = preview(graph, ops).graph;
  const [add, ...more] = copyOf(graph, decky, to, deckyNames(rest), 0);
  const back = (op: Op): Op => ({ op: op.op, payload: { ...op.payload, ...(op.op === 'add_decky' ? { name: decky.name }
    : { decky: decky.name }) } }) as Op;
  if (!add) return [];
  ops.push(...[add, ...more].map(back));
  for (const edge of graph.edges) {
    const other = edge.decky_uuid === decky.uuid && edge.is_bridge && findLan(graph, edge.lan_id);
    if (!other || other.id === to.id) continue;
    ops.push({ op: 'attach_decky', payload: { decky: decky.name, lan: other.name } });
  }
  return ops;
}
