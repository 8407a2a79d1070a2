// What is staged, kept over a reload of the tab: in its sessionStorage, by topology. It goes with the tab, with what is
// applied or discarded, and with whoever signs out: it holds rows that a token showed.
import type { Graph } from 'topostream';
import { opsOf, type Op } from './ops.ts';

/** What of the editing of one topology outlives a reload. */
export interface Kept {
  readonly ops: readonly Op[];
  readonly past: readonly (readonly Op[])[];
  readonly future: readonly (readonly Op[])[];
  /** What the ops were staged for. */
  readonly base: { readonly graph: Graph; readonly seq: number; readonly expected: number };
  /** The mutation that is under way with the ops. */
  readonly waiting: string | null;
  /** Mutations since the base that this tab has enqueued: they are no others'. */
  readonly own: readonly string[];
}

export interface Keep {
  /** All that is kept; what is not as this page writes it is left out. */
  readonly load: () => ReadonlyMap<string, Kept>;
  /** Keeps, or with null throws away. A storage that is full or forbidden keeps nothing. */
  readonly put: (topology: string, kept: Kept | null) => void;
  readonly has: (topology: string) => boolean;
}

const edits = 'topostream.staged.';
const bases = 'topostream.base.'; // apart from the edits: a base is large, and stays the same while they come
const steps = 50; // of undo

const isList = (value: unknown): value is readonly unknown[] => Array.isArray(value);

function opsFrom(value: unknown): readonly Op[] | null {
  const ops = isList(value) ? opsOf('changeset', { ops: value }) : null;
  return ops && ops.length === (value as unknown[]).length ? ops : null;
}

function keptFrom(text: string | null, base: string | null): Kept | null {
  try {
    const kept = JSON.parse(text ?? 'null') as Record<string, unknown> & { seq: number; expected: number } | null;
    const graph = JSON.parse(base ?? 'null') as Graph | null;
    const ops = opsFrom(kept?.ops);
    const whole = graph && [graph.lans, graph.deckies, graph.edges].every(isList);
    if (!kept || !ops?.length || !whole || ![kept.seq, kept.expected].every(Number.isSafeInteger)) return null;
    const lists = (value: unknown): (readonly Op[])[] => isList(value) ? value.flatMap((one) => {
      const list = opsFrom(one);
      return list ? [list] : [];
    }) : [];
    return {
      ops, past: lists(kept.past), future: lists(kept.future),
      base: { graph, seq: kept.seq, expected: kept.expected },
      waiting: typeof kept.waiting === 'string' ? kept.waiting : null,
      own: isList(kept.own) ? kept.own.filter((id) => typeof id === 'string') : [],
    };
  } catch {
    return null;
  }
}

export function createKeep(storage: Storage): Keep {
  const written = new Map<string, Graph>(); // of the bases
  const remove = (topology: string): void => {
    storage.removeItem(edits + topology);
    storage.removeItem(bases + topology);
    written.delete(topology);
  };
  return {
    load: () => new Map(Object.keys(storage).filter((key) => key.startsWith(edits)).flatMap((key) => {
      const topology = key.slice(edits.length);
      const kept = keptFrom(storage.getItem(key), storage.getItem(bases + topology));
      if (!kept) {
        remove(topology);
        return [];
      }
      written.set(topology, kept.base.graph);
      return [[topology, kept]];
    })),
    put: (topology, kept) => {
      if (!kept) {
        remove(topology);
        return;
      }
      const { base: { graph, seq, expected }, past, future, ...rest } = kept;
      try {
        if (written.get(topology) !== graph) storage.setItem(bases + topology, JSON.stringify(graph));
        written.set(topology, graph);
        const text = JSON.stringify({ ...rest, past: past.slice(-steps), future: future.slice(-steps), seq, expected });
        storage.setItem(edits + topology, text);
      } catch {
        remove(topology); // half of it would be wrong
      }
    },
    has: (topology) => storage.getItem(edits + topology) !== null,
  };
}

/** Throws away all that is kept. */
export function forgetKept(storage: Storage): void {
  for (const key of Object.keys(storage)) {
    if (key.startsWith(edits) || key.startsWith(bases)) storage.removeItem(key);
  }
}
