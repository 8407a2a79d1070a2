// Undoes what was applied: proposes the ops that bring back what was before, to be looked at and applied by hand.
import { computed, effect, signal, type ReadonlySignal } from '@preact/signals';
import type { Graph, GraphChanges } from 'topostream';
import type { Edit } from '../edit/edit.ts';
import { inverse } from '../edit/inverse.ts';
import type { Commands } from './commands.ts';
import type { JournalEvent } from './journal.ts';
import type { Live } from './live.ts';
import type { Past } from './past.ts';
import type { RouteState, Selection } from './route.ts';
import { changesOf, isStop } from './walk.ts';

export interface Revert {
  /** The mutation or event that is selected alone; null if none is. */
  readonly selected: ReadonlySignal<Selection | null>;
  /** Whether it can be undone now; otherwise why not. */
  readonly possible: ReadonlySignal<true | string>;
  /** What came of the last one, in a sentence. */
  readonly said: ReadonlySignal<string | null>;
  readonly run: () => Promise<void>;
}

interface Parts {
  readonly route: RouteState;
  readonly commands: Commands;
  readonly live: Live;
  readonly history: Past;
  readonly editable: ReadonlySignal<true | string>;
  readonly propose: Edit['propose'];
}

/** The parts that one statement's changes came in, as one. */
function joinParts(parts: readonly GraphChanges[]): GraphChanges {
  const rows = <T>(of: (part: GraphChanges) => readonly T[] | undefined): T[] =>
    parts.flatMap((part) => of(part) ?? []);
  return {
    lans: rows((p) => p.lans), deckies: rows((p) => p.deckies), edges: rows((p) => p.edges),
    removed: rows((p) => p.removed),
    before: {
      lans: rows((p) => p.before?.lans), deckies: rows((p) => p.before?.deckies), edges: rows((p) => p.before?.edges),
    },
    ...(parts.some((part) => part.truncated) && { truncated: true }),
  };
}

/** The events that tell of one statement: all the parts that it came in, or the event alone. */
function partsOf(event: JournalEvent, events: readonly JournalEvent[]): readonly JournalEvent[] {
  const here = events.findIndex((one) => one.seq === event.seq);
  let from = here;
  while (from > 0 && !isStop(events[from - 1]!)) from--;
  let to = here;
  while (to < events.length - 1 && !isStop(events[to]!)) to++;
  return events.slice(from, to + 1);
}

export function createRevert({ route, commands, live, history, editable, propose }: Parts): Revert {
  const said = signal<string | null>(null);
  const selected = computed(() => {
    const { selection } = route.current.value;
    const [one] = selection;
    return one && selection.length === 1 && (one.kind === 'mutation' || one.kind === 'event') ? one : null;
  });
  /** Its event, where that has been read already. */
  const told = computed(() => {
    const one = selected.value;
    return one ? history.window.value?.events.findLast((event) => isToldBy(event, one)) : undefined;
  });
  const possible = computed((): true | string => {
    if (!selected.value) return 'select a mutation or an event of the timeline';
    if (editable.value !== true) return editable.value;
    if (told.value && !changesOf(told.value)) return `${told.value.type} has changed nothing of the graph`;
    return true;
  });
  const run = async (): Promise<void> => {
    const one = selected.peek();
    const graph: Graph | null = live.open.peek()?.graph ?? null;
    if (!one || possible.peek() !== true || !graph) return;
    const event = await history.find((each) => isToldBy(each, one));
    const events = history.window.peek()?.events ?? [];
    const parts = event ? partsOf(event, events) : [];
    const changes = parts.flatMap((part) => changesOf(part) ?? []);
    if (!event || changes.length === 0) {
      said.value = event
        ? `${event.type} has changed nothing of the graph`
        : 'the journal does not reach back to it: it cannot be undone from here';
      return;
    }
    const { ops, lost } = inverse(joinParts(changes), graph);
    const { op } = (event.payload ?? {}) as { op?: string };
    const what = ops.length ? `revert of ${op ?? 'a change by hand'}, seq ${event.seq}` : 'there is nothing to undo';
    said.value = lost.length ? `${what}. What does not come back: ${lost.join('; ')}` : what;
    if (ops.length) propose(ops, said.value);
  };
  effect(() => {
    void selected.value;
    said.value = null;
  });
  commands.add({
    id: 'edit.revert', title: 'Revert what is selected', group: 'Edit', enabled: () => possible.value,
    run: () => void run(),
  });
  return { selected, possible, said, run };
}

/** Whether an event tells the outcome of a mutation, or is the event itself. */
function isToldBy(event: JournalEvent, { kind, key }: Selection): boolean {
  if (kind === 'event') return String(event.seq) === key;
  const { mutation_id } = (event.payload ?? {}) as { mutation_id?: string };
  return mutation_id === key && /^mutation\.(applied|failed)$/.test(event.type);
}
