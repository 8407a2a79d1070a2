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

/** A row's id in the scene: the same string object each time, which a map hashes once. */
const ids = new WeakMap<object, string>();
function idOfRow(kind: 'lan:' | 'decky:' | 'edge:', row: { readonly id?: string; readonly uuid?: string }): string {
  let id = ids.get(row);
  if (id === undefined) ids.set(row, id = kind + (row.id ?? row.uuid!));
  return id;
}

interface DeckyRead {
  readonly health: Health;
  readonly services: string[];
  readonly forwards: boolean | null;
}
const read = new WeakMap<Decky, DeckyRead>();
function readDecky(row: Decky): DeckyRead {
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

  const lanIds = new Map(graph.lans.map((lan) => [lan.id, idOfRow('lan:', lan)]));
  const lanId = (key: string | undefined): string | null =>
    key === undefined ? null : lanIds.get(key) ?? (key.startsWith('ghost:') ? 'lan:' + key : null);
  const at = (id: string, row: Lan | Decky): Point | null => (moved.size ? moved.get(id) : undefined) ?? placeOf(row);
  const layout = layOut(
    [
      ...graph.lans.map((lan) => {
        const key = idOfRow('lan:', lan);
        return { key, name: lan.name, at: at(key, lan) };
      }),
      ...[...newLans.values()].map((lan) => ({ key: 'lan:' + ghostKey(lan.name), name: lan.name, at: placeOf(lan) })),
    ],
    [
      ...graph.deckies.map((decky) => {
        const key = idOfRow('decky:', decky);
        return { key, name: decky.name, at: at(key, decky), lan: lanId(homes.get(decky.uuid)?.lan_id) };
      }),
      ...[...newDeckies.values()].map((decky) => ({
        key: 'decky:' + ghostKey(decky.name), name: decky.name, at: placeOf(decky), lan: lanId(lanKey(decky.lan)),
      })),
    ],
    memory,
  );

  const items = new Map<string, SceneItem>();
  const members = new Map<string, SceneDecky[]>();
  const counts = new Map<string, Partial<Record<Health, number>>>();
  const lans: SceneLan[] = [];
  const addLan = (
    key: string, row: Lan | null, name: string, subnet: string, dmz: boolean, mark: Mark | null,
  ): void => {
    const id = lanIds.get(key) ?? 'lan:' + key;
    members.set(id, []);
    counts.set(id, {});
    const { x, y, w, h, origin } = layout.lans.get(id)!;
    const lan: SceneLan = {
      kind: 'lan', id, key, row, name, subnet, dmz, mark, members: members.get(id)!, counts: counts.get(id)!,
      x, y, w, h, origin,
    };
    lans.push(lan);
    items.set(id, lan);
  };
  for (const lan of graph.lans) {
    addLan(lan.id, lan, lan.name, lan.subnet, lan.is_dmz, marks.get(idOfRow('lan:', lan)) ?? null);
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
  const deckyIds = new Map<string, string>();
  for (const row of graph.deckies) {
    const { health, services, forwards } = readDecky(row);
    const id = idOfRow('decky:', row);
    const home = homes.get(row.uuid);
    const { x, y, w, h } = layout.deckies.get(id)!;
    const decky: SceneDecky = {
      kind: 'decky', id, key: row.uuid, row, name: row.name, ip: row.ip ?? '', state: row.state, health, services,
      gateway: forwards ?? forwarding.has(row.uuid), lan: lanId(home?.lan_id), mark: marks.get(id) ?? null, x, y, w, h,
    };
    addDecky(decky);
    deckyIds.set(row.uuid, id);
    if (home) homeEdges.set(idOfRow('edge:', home), decky);
  }
  for (const { name, lan, phase } of newDeckies.values()) {
    const id = 'decky:' + ghostKey(name);
    addDecky({
      kind: 'decky', id, key: ghostKey(name), row: null, name, ip: '', state: phase, health: 'pending', services: [],
      gateway: false, lan: lanId(lanKey(lan)), mark: { kind: 'new', phase }, ...layout.deckies.get(id)!,
    });
  }

  const links: SceneLink[] = [];
  const addLink = (
    id: string, row: Edge | null, deckyId: string, lanOf: string, forwards: boolean, mark: Mark | null,
  ): void => {
    const decky = items.get(deckyId) as SceneDecky | undefined;
    const lan = items.get(lanOf) as SceneLan | undefined;
    if (!decky || !lan || items.has(id)) return;
    const from = { x: decky.x + decky.w / 2, y: decky.y + decky.h / 2 };
    const link: SceneLink = {
      kind: 'edge', id, key: id.slice('edge:'.length), row, decky, lan, from, to: borderPoint(lan, from), forwards,
      mark,
    };
    links.push(link);
    items.set(link.id, link);
  };
  for (const edge of graph.edges) {
    if (homes.get(edge.decky_uuid) === edge) continue;
    const id = idOfRow('edge:', edge);
    addLink(id, edge, deckyIds.get(edge.decky_uuid) ?? '', lanIds.get(edge.lan_id) ?? '', edge.forwards_l3,
      marks.get(id) ?? null);
  }
  for (const ghost of ghosts) {
    if (ghost.kind !== 'edge') continue;
    const [decky, lan] = [deckyKey(ghost.decky), lanKey(ghost.lan)];
    if (decky && lan) {
      addLink(`edge:ghost:${ghost.decky}/${ghost.lan}`, null, 'decky:' + decky, 'lan:' + lan, false,
        { kind: 'new', phase: ghost.phase });
    }
  }
  const scene = { lans, deckies, links, items, homes: homeEdges, bounds: boundsOf([...lans, ...deckies]) };
  return { scene, remembered: layout.remembered };
}

/**
 * The scene after changes of deckies' states, addresses, services and configs, which move and connect nothing: most
 * events are such, and this costs a tenth of sceneOf. Null where more has changed, and sceneOf has to make the scene.
 */
export function patched(scene: Scene, before: Graph, graph: Graph): Scene | null {
  const rows = graph.deckies;
  if (before.lans !== graph.lans || before.edges !== graph.edges || before.deckies.length !== rows.length) return null;
  const deckies = [...scene.deckies];
  const items = new Map(scene.items);
  const stale = new Set<string>();
  for (let i = 0; i < rows.length; i++) {
    const [old, row] = [before.deckies[i]!, rows[i]!];
    if (old === row) continue;
    const decky = deckies[i];
    const { health, services, forwards } = readDecky(row);
    if (decky?.row !== old || old.uuid !== row.uuid || old.name !== row.name || old.x !== row.x || old.y !== row.y
      || forwards !== readDecky(old).forwards) return null;
    const next = deckies[i] = { ...decky, row, ip: row.ip ?? '', state: row.state, health, services };
    items.set(next.id, next);
    stale.add(next.id);
    if (next.lan) stale.add(next.lan);
  }
  if (!stale.size) return { ...scene, deckies, items };
  const lans = scene.lans.map((lan) => {
    if (!stale.has(lan.id)) return lan;
    const members = lan.members.map((member) => items.get(member.id) as SceneDecky);
    const counts: Partial<Record<Health, number>> = {};
    for (const { health, row } of members) if (row) counts[health] = (counts[health] ?? 0) + 1;
    const next = { ...lan, members, counts };
    items.set(lan.id, next);
    return next;
  });
  const links = scene.links.map((link) => {
    if (!stale.has(link.decky.id) && !stale.has(link.lan.id)) return link;
    const next = { ...link, decky: items.get(link.decky.id) as SceneDecky, lan: items.get(link.lan.id) as SceneLan };
    items.set(link.id, next);
    return next;
  });
  const homes = new Map([...scene.homes].map(([id, decky]) => [id, items.get(decky.id) as SceneDecky]));
  return { ...scene, lans, deckies, links, items, homes };
}

/** The point of a box's border that is nearest to a point, which may be within. */
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

function boundsOf(boxes: readonly Box[]): Box | null {
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
