import type { Graph } from 'topostream';

/** The first of "web-1", "web-2", … that is free; what already ends in a number goes on from there. */
export function nextName(like: string, taken: Iterable<string>): string {
  const all = new Set(taken);
  const [, stem = like, number] = /^(.*?)-?(\d{1,9})?$/su.exec(like) ?? [];
  for (let i = number === undefined ? 1 : Number(number) + 1; ; i++) {
    const name = `${stem}-${i}`;
    if (!all.has(name)) return name;
  }
}

export const lanNames = (graph: Graph): string[] => graph.lans.map(({ name }) => name);
export const deckyNames = (graph: Graph): string[] => graph.deckies.map(({ name }) => name);
