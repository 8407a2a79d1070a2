// What is new or different between two scenes: it flashes once.
import type { Scene, SceneItem } from './scene.ts';

const sameValue = (a: unknown, b: unknown): boolean =>
  a === b || (typeof a === 'object' && typeof b === 'object' && JSON.stringify(a) === JSON.stringify(b));

function sameRow(a: object | null, b: object | null): boolean {
  if (a === b) return true;
  if (!a || !b) return false;
  const [x, y] = [a as Record<string, unknown>, b as Record<string, unknown>];
  const keys = Object.keys(x);
  return keys.length === Object.keys(y).length && keys.every((key) => sameValue(x[key], y[key]));
}

/**
 * The ids of what was added or changed, ghosts excepted; of what was removed, those of the LANs that it was in. A
 * snapshot that says the same again changes nothing.
 */
export function changedItems(before: Scene, after: Scene): Set<string> {
  const changed = new Set<string>();
  let known = 0;
  for (const [id, item] of after.items) {
    const old: SceneItem | undefined = before.items.get(id);
    if (old) known++;
    if (item === old) continue;
    if (item.row && (!old || !sameRow(old.row, item.row))) changed.add(id);
  }
  if (known === before.items.size) return changed; // nothing was removed
  for (const [id, item] of before.items) {
    if (!item.row || after.items.has(id)) continue;
    const lan = item.kind === 'decky' ? item.lan : item.kind === 'edge' ? item.lan.id : null;
    if (lan && after.items.has(lan)) changed.add(lan);
  }
  return changed;
}
