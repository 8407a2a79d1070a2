// What is beneath a point, within a rectangle, or next in a direction.
import RBush from 'rbush';
import type { Box, Point } from './layout.ts';
import type { Level } from './level.ts';
import type { Scene, SceneItem, SceneNode } from './scene.ts';

interface Entry {
  readonly minX: number;
  readonly minY: number;
  readonly maxX: number;
  readonly maxY: number;
  readonly id: string;
}

export class SceneIndex {
  readonly #tree: RBush<Entry>;

  /** `same` is the index of a scene in which everything stood at the same place: its tree serves again. */
  constructor(readonly scene: Scene, same?: SceneIndex) {
    this.#tree = same ? same.#tree : new RBush<Entry>();
    if (same) return;
    const box = ({ x, y, w, h, id }: SceneNode): Entry => ({ minX: x, minY: y, maxX: x + w, maxY: y + h, id });
    this.#tree.load([
      ...scene.lans.map(box), ...scene.deckies.map(box),
      ...scene.links.map((item) => ({
        minX: Math.min(item.from.x, item.to.x), maxX: Math.max(item.from.x, item.to.x),
        minY: Math.min(item.from.y, item.to.y), maxY: Math.max(item.from.y, item.to.y), id: item.id,
      })),
    ]);
  }

  /** Everything whose box touches this one. */
  within(area: Box): SceneItem[] {
    return this.#tree
      .search({ minX: area.x, minY: area.y, maxX: area.x + area.w, maxY: area.y + area.h })
      .map(({ id }) => this.scene.items.get(id)!);
  }

  /** The uppermost item at a point: a decky, then a bridge not farther than `reach`, then a LAN. */
  at(point: Point, reach: number, level: Level): SceneItem | null {
    let found: SceneItem | null = null;
    const rank = { lan: 0, edge: 1, decky: 2 };
    for (const item of this.within({ x: point.x - reach, y: point.y - reach, w: 2 * reach, h: 2 * reach })) {
      const here = item.kind === 'edge'
        ? distanceToSegment(point, item.from, item.to) <= reach
        : contains(item, point) && (item.kind === 'lan' || level !== 'far' || item.lan === null);
      // Of two of a kind the one that is drawn later lies above.
      if (here && (!found || rank[item.kind] > rank[found.kind]
        || (rank[item.kind] === rank[found.kind] && order(this.scene, item) > order(this.scene, found)))) found = item;
    }
    return found;
  }

  /** What a marquee takes: deckies that it touches; where it touches none, LANs that lie in it as a whole. */
  marquee(area: Box, level: Level): SceneNode[] {
    const touched = this.within(area).filter((item): item is SceneNode => item.kind !== 'edge');
    const deckies = level === 'far' ? [] : touched.filter((item) => item.kind === 'decky');
    return deckies.length ? deckies : touched.filter((item) => item.kind === 'lan' && encloses(area, item));
  }
}

export const contains = (box: Box, { x, y }: Point): boolean =>
  x >= box.x && y >= box.y && x <= box.x + box.w && y <= box.y + box.h;
const encloses = (outer: Box, box: Box): boolean =>
  contains(outer, box) && contains(outer, { x: box.x + box.w, y: box.y + box.h });

const orders = new WeakMap<Scene, Map<SceneItem, number>>();
function order(scene: Scene, item: SceneItem): number {
  let known = orders.get(scene);
  if (!known) orders.set(scene, known = new Map([...scene.items.values()].map((i, n) => [i, n])));
  return known.get(item)!;
}

export function distanceToSegment(p: Point, a: Point, b: Point): number {
  const [dx, dy] = [b.x - a.x, b.y - a.y];
  const length = dx * dx + dy * dy;
  const t = length ? Math.min(1, Math.max(0, ((p.x - a.x) * dx + (p.y - a.y) * dy) / length)) : 0;
  return Math.hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
}

export type Direction = 'left' | 'right' | 'up' | 'down';

/** The next node in a direction: near, and rather straight ahead. LANs lead to LANs, deckies to deckies. */
export function neighbour(scene: Scene, from: SceneNode, direction: Direction): SceneNode | null {
  const candidates: readonly SceneNode[] = from.kind === 'lan' ? scene.lans : scene.deckies;
  const centre = (box: Box): Point => ({ x: box.x + box.w / 2, y: box.y + box.h / 2 });
  const here = centre(from);
  let best: SceneNode | null = null;
  let least = Infinity;
  for (const node of candidates) {
    if (node === from) continue;
    const there = centre(node);
    const [dx, dy] = [there.x - here.x, there.y - here.y];
    const ahead = direction === 'left' ? -dx : direction === 'right' ? dx : direction === 'up' ? -dy : dy;
    const aside = Math.abs(direction === 'left' || direction === 'right' ? dy : dx);
    if (ahead <= 0.5 || aside > 4 * ahead) continue;
    const cost = ahead + 2 * aside;
    if (cost < least) [best, least] = [node, cost];
  }
  return best;
}
