import type { Scene, SceneNode } from './scene.ts';

/** LANs and deckies whose name, address, subnet or id has a text in it: first what is called so or begins with it. */
export function findInScene({ lans, deckies }: Scene, text: string): SceneNode[] {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return [];
  const rank = (node: SceneNode): number => {
    const name = node.name.toLowerCase();
    const address = node.kind === 'lan' ? node.subnet : node.ip;
    if (name === wanted || address === wanted || node.key === wanted) return 0;
    if (name.startsWith(wanted) || address.startsWith(wanted)) return 1;
    return name.includes(wanted) || address.includes(wanted) || node.key.includes(wanted) ? 2 : -1;
  };
  return [...lans, ...deckies]
    .map((node) => ({ node, rank: rank(node) }))
    .filter(({ rank: r }) => r >= 0)
    .sort((a, b) => a.rank - b.rank || a.node.name.localeCompare(b.node.name, 'en', { numeric: true }))
    .map(({ node }) => node);
}
