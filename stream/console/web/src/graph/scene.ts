// What is drawn: LANs, deckies and links with their places, made of a graph, its ghosts and what was moved in this tab.
import type { Decky, Edge, Graph, Lan } from 'topostream';
import type { Ghost, GhostPhase } from './ghost.ts';
import { healthOf, type Health } from './health.ts';
import { ghostKey, layOut, type Box, type Point, type Remembered } from './layout.ts';

/** `new` is not there yet, `going` is about to be removed, `changing` to be changed. */
export interface Mark {
  readonly kind: 'new' | 'going' | 'changing';
  readonly phase: GhostPhase;
}

export interface SceneLan extends Box {
  readonly kind: 'lan';
  /** "lan:<id>". */
  readonly id: string;
  readonly key: string;
  readonly row: Lan | null;
  readonly name: string;
  readonly subnet: string;
  readonly dmz: boolean;
  readonly origin: Point;
  readonly mark: Mark | null;
  readonly members: readonly SceneDecky[];
  readonly counts: Readonly<Partial<Record<Health, number>>>;
}

export interface SceneDecky extends Box {
  readonly kind: 'decky';
  readonly id: string;
  readonly key: string;
  readonly row: Decky | null;
  readonly name: string;
  readonly ip: string;
  readonly state: string;
  readonly health: Health;
  readonly services: readonly string[];
  readonly gateway: boolean;
  /** Its home's id in the scene, if it has one. */
  readonly lan: string | null;
  readonly mark: Mark | null;
}

/** A decky in a LAN that is not its home. */
export interface SceneLink {
  readonly kind: 'edge';
  readonly id: string;
  readonly key: string;
  readonly row: Edge | null;
  readonly decky: SceneDecky;
  readonly lan: SceneLan;
  readonly from: Point;
  readonly to: Point;
  readonly forwards: boolean;
  readonly mark: Mark | null;
}

export type SceneNode = SceneLan | SceneDecky;
export type SceneItem = SceneNode | SceneLink;

export interface Scene {
  readonly lans: readonly SceneLan[];
  readonly deckies: readonly SceneDecky[];
  readonly links: readonly SceneLink[];
  /** Everything by id: "lan:…", "decky:…", "edge:…", as the address names what is selected. */
  readonly items: ReadonlyMap<string, SceneItem>;
  /** A home edge is not drawn: this is its decky. */
  readonly homes: ReadonlyMap<string, SceneDecky>;
  readonly bounds: Box | null;
}

export const noScene: Scene = {
  lans: [], deckies: [], links: [], items: new Map(), homes: new Map(), bounds: null,
};

/** Each decky's home edge: the one that is no bridge; of several, which only a hand makes, the least id. */
export function homesOf(edges: readonly Edge[]): Map<string, Edge> {
  const homes = new Map<string, Edge>();
  for (const edge of edges) {
    if (edge.is_bridge) continue;
    const other = homes.get(edge.decky_uuid);
    if (!other || edge.id < other.id) homes.set(edge.decky_uuid, edge);
  }
  return homes;
}

/** Names of services: of a list of words, or of whatever a hand wrote there. */
export function servicesOf(services: unknown): string[] {
  if (Array.isArray(services)) {
    return services.map((s) => typeof s === 'string' ? s
      : s !== null && typeof s === 'object' && typeof (s as { name?: unknown }).name === 'string'
        ? (s as { name: string }).name : JSON.stringify(s));
  }
  if (services !== null && typeof services === 'object') return Object.keys(services);
  return services === null || services === undefined ? [] : [String(services)];
}

const read = new WeakMap<Decky, { health: Health; services: string[]; forwards: boolean | null }>();
function readDecky(row: Decky) {
  let known = read.get(row);
  if (!known) {
    const forwards = (row.decky_config as { forwards_l3?: unknown } | null)?.forwards_l3;
    known = {
      health: healthOf(row.state), services: servicesOf(row.services),
      forwards: forwards === undefined ? null : forwards === true,
    };
    read.set(row, known);
  }
  return known;
}

const placeOf = (row: { x: number | null; y: number | null }): Point | null =>
  row.x === null || row.y === null ? null : { x: row.x, y: row.y };

/** Makes the scene. `moved` holds places by id of what was moved in this tab, which win over the tables'. */
export function sceneOf(
  graph: Graph, ghosts: readonly Ghost[], moved: ReadonlyMap<string, Point>, memory: Remembered,
): { readonly scene: Scene; readonly remembered: Remembered } {
  const marks = new Map<string, Mark>();
  const tables = { lans: 'lan:', deckies: 'decky:', edges: 'edge:' } as const;
  for (const ghost of ghosts) {
    if (ghost.kind !== 'going' && ghost.kind !== 'changing') continue;
    const id = tables[ghost.table] + ghost.key;
    if (marks.get(id)?.kind !== 'going') marks.set(id, { kind: ghost.kind, phase: ghost.phase });
  }
  const homes = homesOf(graph.edges);
  const lanByName = new Map(graph.lans.map((lan) => [lan.name, lan.id]));
  const deckyByName = new Map(graph.deckies.map((decky) => [decky.name, decky.uuid]));
  const newLans = new Map<string, Ghost & { kind: 'lan' }>();
  const newDeckies = new Map<string, Ghost & { kind: 'decky' }>();
  for (const ghost of ghosts) {
    if (ghost.kind === 'lan' && !lanByName.has(ghost.name)) newLans.set(ghost.name, ghost);
    if (ghost.kind === 'decky' && !deckyByName.has(ghost.name)) newDeckies.set(ghost.name, ghost);
  }
  const lanKey = (name: string): string | undefined =>
    lanByName.get(name) ?? (newLans.has(name) ? ghostKey(name) : undefined);
  const deckyKey = (name: string): string | undefined =>
    deckyByName.get(name) ?? (newDeckies.has(name) ? ghostKey(name) : undefined);

  const layout = layOut(
    [
      ...graph.lans.map((lan) => ({ key: lan.id, name: lan.name, at: moved.get('lan:' + lan.id) ?? placeOf(lan) })),
      ...[...newLans.values()].map((lan) => ({ key: ghostKey(lan.name), name: lan.name, at: placeOf(lan) })),
    ],
    [
      ...graph.deckies.map((decky) => ({
        key: decky.uuid, name: decky.name, at: moved.get('decky:' + decky.uuid) ?? placeOf(decky),
        lan: homes.get(decky.uuid)?.lan_id ?? null,
      })),
      ...[...newDeckies.values()].map((decky) => ({
        key: ghostKey(decky.name), name: decky.name, at: placeOf(decky), lan: lanKey(decky.lan) ?? null,
      })),
    ],
    memory,
  );

  const items = new Map<string, SceneItem>();
  const members = new Map<string, SceneDecky[]>();
  const counts = new Map<string, Partial<Record<Health, number>>>();
  const lans: SceneLan[] = [];
  const addLan = (key: string, row: Lan | null, name: string, subnet: string, dmz: boolean, mark: Mark | null): void => {
    const id = 'lan:' + key;
    members.set(id, []);
    counts.set(id, {});
    const lan: SceneLan = {
      kind: 'lan', id, key, row, name, subnet, dmz, mark, members: members.get(id)!, counts: counts.get(id)!,
      ...layout.lans.get(key)!,
    };
    lans.push(lan);
    items.set(id, lan);
  };
  for (const lan of graph.lans) {
    addLan(lan.id, lan, lan.name, lan.subnet, lan.is_dmz, marks.get('lan:' + lan.id) ?? null);
  }
  for (const { name, subnet, is_dmz, phase } of newLans.values()) {
    addLan(ghostKey(name), null, name, subnet ?? 'next free', is_dmz, { kind: 'new', phase });
  }

  const forwarding = new Set(graph.edges.flatMap((edge) => edge.forwards_l3 ? [edge.decky_uuid] : []));
  const deckies: SceneDecky[] = [];
  const addDecky = (decky: SceneDecky): void => {
    deckies.push(decky);
    items.set(decky.id, decky);
    if (decky.lan === null) return;
    members.get(decky.lan)?.push(decky);
    const count = counts.get(decky.lan);
    if (count && decky.row) count[decky.health] = (count[decky.health] ?? 0) + 1;
  };
  const homeEdges = new Map<string, SceneDecky>();
  for (const row of graph.deckies) {
    const { health, services, forwards } = readDecky(row);
    const id = 'decky:' + row.uuid;
    const home = homes.get(row.uuid);
    const lan = home && items.has('lan:' + home.lan_id) ? 'lan:' + home.lan_id : null;
    const decky: SceneDecky = {
      kind: 'decky', id, key: row.uuid, row, name: row.name, ip: row.ip ?? '', state: row.state, health, services,
      gateway: forwards ?? forwarding.has(row.uuid), lan, mark: marks.get(id) ?? null,
      ...layout.deckies.get(row.uuid)!,
    };
    addDecky(decky);
    if (home) homeEdges.set('edge:' + home.id, decky);
  }
  for (const { name, lan, phase } of newDeckies.values()) {
    const home = lanKey(lan);
    addDecky({
      kind: 'decky', id: 'decky:' + ghostKey(name), key: ghostKey(name), row: null, name, ip: '', state: phase,
      health: 'pending', services: [], gateway: false, lan: home ? 'lan:' + home : null,
      mark: { kind: 'new', phase }, ...layout.deckies.get(ghostKey(name))!,
    });
  }

  const links: SceneLink[] = [];
  const addLink = (
    key: string, row: Edge | null, deckyId: string, lanId: string, forwards: boolean, mark: Mark | null,
  ): void => {
    const decky = items.get(deckyId) as SceneDecky | undefined;
    const lan = items.get(lanId) as SceneLan | undefined;
    if (!decky || !lan || items.has('edge:' + key)) return;
    const from = { x: decky.x + decky.w / 2, y: decky.y + decky.h / 2 };
    const link: SceneLink = {
      kind: 'edge', id: 'edge:' + key, key, row, decky, lan, from, to: borderPoint(lan, from), forwards, mark,
    };
    links.push(link);
    items.set(link.id, link);
  };
  for (const edge of graph.edges) {
    if (homes.get(edge.decky_uuid) === edge) continue;
    addLink(edge.id, edge, 'decky:' + edge.decky_uuid, 'lan:' + edge.lan_id, edge.forwards_l3,
      marks.get('edge:' + edge.id) ?? null);
  }
  for (const ghost of ghosts) {
    if (ghost.kind !== 'edge') continue;
    const [decky, lan] = [deckyKey(ghost.decky), lanKey(ghost.lan)];
    if (decky && lan) {
      addLink(`ghost:${ghost.decky}/${ghost.lan}`, null, 'decky:' + decky, 'lan:' + lan, false,
        { kind: 'new', phase: ghost.phase });
    }
  }
  const scene = { lans, deckies, links, items, homes: homeEdges, bounds: boundsOf([...lans, ...deckies]) };
  return { scene, remembered: layout.remembered };
}

/** The point of a box's border where a line from a point arrives: its nearest; from within, that of the nearest side. */
export function borderPoint(box: Box, from: Point): Point {
  const x = Math.min(Math.max(from.x, box.x), box.x + box.w);
  const y = Math.min(Math.max(from.y, box.y), box.y + box.h);
  if (x !== from.x || y !== from.y) return { x, y };
  const sides = [
    { d: x - box.x, x: box.x, y }, { d: box.x + box.w - x, x: box.x + box.w, y },
    { d: y - box.y, x, y: box.y }, { d: box.y + box.h - y, x, y: box.y + box.h },
  ];
  const nearest = sides.reduce((a, b) => b.d < a.d ? b : a);
  return { x: nearest.x, y: nearest.y };
}

export function boundsOf(boxes: readonly Box[]): Box | null {
  if (!boxes.length) return null;
  let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const { x, y, w, h } of boxes) {
    left = Math.min(left, x);
    top = Math.min(top, y);
    right = Math.max(right, x + w);
    bottom = Math.max(bottom, y + h);
  }
  return { x: left, y: top, w: right - left, h: bottom - top };
}

/** The items that a selection is connected to, with itself: what stays bright while the rest is dimmed. */
export function connectedTo(scene: Scene, selected: ReadonlySet<string>): Set<string> {
  const near = new Set(selected);
  for (const id of selected) {
    const item = scene.items.get(id) ?? scene.homes.get(id);
    if (item) near.add(item.id);
    if (item?.kind === 'lan') for (const member of item.members) near.add(member.id);
    if (item?.kind === 'decky' && item.lan) near.add(item.lan);
  }
  for (const link of scene.links) {
    if (!selected.has(link.decky.id) && !selected.has(link.lan.id) && !selected.has(link.id)) continue;
    near.add(link.id).add(link.decky.id).add(link.lan.id);
    if (link.decky.lan) near.add(link.decky.lan);
  }
  return near;
}
