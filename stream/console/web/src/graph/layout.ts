// Where each LAN and decky is. The tables say it; what has no place there gets one here, once, and keeps it.
import RBush from 'rbush';
import { nameKey } from '../state/rows.ts';

export interface Point {
  readonly x: number;
  readonly y: number;
}
export interface Box extends Point {
  readonly w: number;
  readonly h: number;
}

/** Sizes in pixels at zoom 1. */
export const size = { card: { w: 144, h: 56 }, gap: 8, pad: 16, header: 28, apart: 64, least: { w: 320, h: 124 } };

/** Keys are "lan:…" and "decky:…"; `at` is null for what has no place in the tables. */
export interface LanToPlace {
  readonly key: string;
  readonly name: string;
  readonly at: Point | null;
}
/** `at` is relative to the LAN's corner; without a LAN it is absolute. */
export interface DeckyToPlace extends LanToPlace {
  readonly lan: string | null;
}

/** Places that were given once, by key. */
export type Remembered = ReadonlyMap<string, Point>;

export interface Layout {
  /** A LAN's box holds its members; its origin is what its deckies' places are relative to. */
  readonly lans: ReadonlyMap<string, Box & { readonly origin: Point }>;
  readonly deckies: ReadonlyMap<string, Box>;
  readonly remembered: Remembered;
}

/** In the order of the list: web-2 before web-10. */
function inOrder<T extends LanToPlace>(rows: readonly T[]): T[] {
  const keyed = rows.map((row) => ({ row, name: nameKey(row.name) }));
  keyed.sort((a, b) => a.name < b.name ? -1 : a.name > b.name ? 1 : a.row.key < b.row.key ? -1 : 1);
  return keyed.map(({ row }) => row);
}

/** The key of a LAN or decky that is only asked for. The row that comes of it takes over its place, by its name. */
export const ghostKey = (name: string): string => 'ghost:' + name;

export const overlaps = (a: Box, b: Box, margin = 0): boolean =>
  a.x < b.x + b.w + margin && b.x < a.x + a.w + margin && a.y < b.y + b.h + margin && b.y < a.y + a.h + margin;

/**
 * Places everything. The same rows and the same memory give the same layout, whatever the order of rows. Something
 * without a place gets one beside what has one, and `remembered` holds it from then on.
 */
export function layOut(lans: readonly LanToPlace[], deckies: readonly DeckyToPlace[], memory: Remembered): Layout {
  let remembered: Map<string, Point> | null = null; // a copy, once there is something new
  const remember = (key: string, at: Point): void => {
    if (memory.get(key) !== at) (remembered ??= new Map(memory)).set(key, at);
  };
  const recall = (kind: string, { key, name }: LanToPlace): Point | undefined =>
    memory.get(key) ?? memory.get(kind + ghostKey(name));
  const groups = new Map<string | null, DeckyToPlace[]>(lans.map((lan) => [lan.key, []]));
  const loose: DeckyToPlace[] = [];
  for (const decky of deckies) (decky.lan === null ? loose : groups.get(decky.lan) ?? loose).push(decky);

  const relative = new Map<string, Point>();
  const sizes = new Map<string, Box>(); // relative to the LAN's origin
  for (const lan of lans) {
    const members = groups.get(lan.key)!;
    fillSlots(members, relative, remember, recall);
    sizes.set(lan.key, hull(members.map(({ key }) => relative.get(key)!)));
  }

  const result = new Map<string, Box & { origin: Point }>();
  const space = new RBush<{ minX: number; minY: number; maxX: number; maxY: number }>();
  const taken: Box[] = [];
  const needsRoom = lans.some((lan) => !lan.at && !recall('lan:', lan)) || loose.some((d) => !d.at);
  const occupy = (box: Box): void => {
    if (!needsRoom) return;
    taken.push(box);
    space.insert({ minX: box.x, minY: box.y, maxX: box.x + box.w, maxY: box.y + box.h });
  };
  const put = (key: string, origin: Point): void => {
    const rel = sizes.get(key)!;
    const box = { x: origin.x + rel.x, y: origin.y + rel.y, w: rel.w, h: rel.h, origin };
    result.set(key, box);
    occupy(box);
  };
  const homeless: LanToPlace[] = [];
  for (const lan of lans) {
    const at = lan.at ?? recall('lan:', lan);
    if (!at) homeless.push(lan);
    else {
      if (!lan.at) remember(lan.key, at);
      put(lan.key, at);
    }
  }
  const places = new Map<string, Box>();
  for (const decky of loose) {
    if (!decky.at) continue;
    const box = { ...decky.at, ...size.card };
    places.set(decky.key, box);
    occupy(box);
  }

  let area = 0;
  for (const { w, h } of sizes.values()) area += (w + size.apart) * (h + size.apart);
  const width = Math.sqrt(area * 1.6);
  const pack = (rel: Box): Point => {
    const box = firstFree(rel, taken, space, width);
    return { x: box.x - rel.x, y: box.y - rel.y };
  };
  for (const lan of inOrder(homeless)) {
    const origin = pack(sizes.get(lan.key)!);
    remember(lan.key, origin);
    put(lan.key, origin);
  }
  // Deckies without a LAN and without a place stand together.
  const strays = loose.filter(({ at }) => !at);
  if (strays.length) {
    fillSlots(strays, relative, remember, recall);
    const origin = memory.get('strays') ?? pack(hull(strays.map(({ key }) => relative.get(key)!)));
    remember('strays', origin);
    for (const { key } of strays) places.set(key, shift(relative.get(key)!, origin));
  }
  for (const [key, members] of groups) {
    const { origin } = result.get(key!)!;
    for (const decky of members) places.set(decky.key, shift(relative.get(decky.key)!, origin));
  }
  return { lans: result, deckies: places, remembered: remembered ?? memory };
}

const shift = (at: Point, by: Point): Box => ({ x: at.x + by.x, y: at.y + by.y, ...size.card });

/** The box around members' places, with the header above; the LAN's own corner is always within it. */
function hull(members: readonly Point[]): Box {
  let [left, top, right, bottom] = [0, 0, size.least.w, size.least.h];
  for (const { x, y } of members) {
    left = Math.min(left, x - size.pad);
    top = Math.min(top, y - size.header - size.pad);
    right = Math.max(right, x + size.card.w + size.pad);
    bottom = Math.max(bottom, y + size.card.h + size.pad);
  }
  return { x: left, y: top, w: right - left, h: bottom - top };
}

/** Gives each member without a place the first free cell of a lattice in its LAN. */
function fillSlots(
  members: readonly DeckyToPlace[], relative: Map<string, Point>, remember: (key: string, at: Point) => void,
  recall: (kind: string, decky: DeckyToPlace) => Point | undefined,
): void {
  const stepX = size.card.w + size.gap;
  const stepY = size.card.h + size.gap;
  const columns = Math.max(2, Math.ceil(Math.sqrt((members.length * stepY * 1.6) / stepX)));
  const waiting: DeckyToPlace[] = [];
  const first = { x: size.pad, y: size.header + size.pad };
  const occupy = ({ x, y }: Point, cells: Set<number>): void => {
    const until = (from: number, step: number, extent: number): number => Math.ceil((from + extent) / step) - 1;
    const since = (from: number, step: number, extent: number): number => Math.floor((from - extent) / step) + 1;
    const lastColumn = Math.min(columns - 1, until(x - first.x, stepX, size.card.w));
    const lastRow = until(y - first.y, stepY, size.card.h);
    for (let r = Math.max(0, since(y - first.y, stepY, size.card.h)); r <= lastRow; r++) {
      for (let c = Math.max(0, since(x - first.x, stepX, size.card.w)); c <= lastColumn; c++) {
        cells.add(r * columns + c);
      }
    }
  };
  for (const decky of members) {
    const at = decky.at ?? recall('decky:', decky);
    if (!at) waiting.push(decky);
    else {
      if (!decky.at) remember(decky.key, at);
      relative.set(decky.key, at);
    }
  }
  if (!waiting.length) return;
  const occupied = new Set<number>(); // row · columns + column
  for (const { key } of members) {
    const at = relative.get(key);
    if (at) occupy(at, occupied);
  }
  let slot = 0;
  for (const decky of inOrder(waiting)) {
    while (occupied.has(slot)) slot++;
    const at = { x: first.x + (slot % columns) * stepX, y: first.y + Math.floor(slot / columns) * stepY };
    slot++;
    relative.set(decky.key, at);
    remember(decky.key, at);
  }
}

/** The uppermost, then leftmost, place beside what is there that overlaps nothing, within a width where possible. */
function firstFree(
  rel: Box, taken: readonly Box[],
  space: RBush<{ minX: number; minY: number; maxX: number; maxY: number }>, width: number,
): Box {
  if (!taken.length) return { ...rel, x: 0, y: 0 };
  const left = taken.reduce((least, { x }) => Math.min(least, x), Infinity);
  const top = taken.reduce((least, { y }) => Math.min(least, y), Infinity);
  const right = taken.reduce((most, { x, w }) => Math.max(most, x + w), -Infinity);
  const limit = Math.max(right - left, width, rel.w);
  const m = size.apart;
  let best: Point | null = null;
  const offer = (x: number, y: number): void => {
    if (best && (y > best.y || (y === best.y && x >= best.x))) return;
    if (x < left || y < top || x + rel.w > left + limit) return;
    const free = !space.collides({
      minX: x - m + 1, minY: y - m + 1, maxX: x + rel.w + m - 1, maxY: y + rel.h + m - 1,
    });
    if (free) best = { x, y };
  };
  for (const box of taken) {
    offer(box.x + box.w + m, box.y);
    offer(box.x + box.w + m, top);
    offer(box.x, box.y + box.h + m);
    offer(left, box.y + box.h + m);
  }
  const bottom = taken.reduce((most, { y, h }) => Math.max(most, y + h), -Infinity);
  const { x, y } = best ?? { x: left, y: bottom + m };
  return { ...rel, x, y };
}
