// Mutations that failed while this page was open. They stay until somebody has read and dismissed them.
import { signal, type ReadonlySignal } from '@preact/signals';
import type { StreamEvent } from 'topostream';

export interface Failure {
  readonly topology_id: string;
  readonly mutation_id: string;
  readonly op: string;
  /** As the server says it. */
  readonly reason: string;
  readonly seq: number;
  readonly ts: string;
}

export interface Failures {
  /** Oldest first. */
  readonly all: ReadonlySignal<readonly Failure[]>;
  readonly dismiss: (...failures: readonly Failure[]) => void;
}

/** The page keeps the newest: who lets more than these stand has read none of them. */
const mostFailures = 500;

export function createFailures(onEvent: (listener: (event: StreamEvent) => void) => () => void): Failures {
  const all = signal<readonly Failure[]>([]);
  onEvent((event) => {
    if (event.kind !== 'event' || event.type !== 'mutation.failed') return;
    const { mutation_id, op, reason } = event.payload as { mutation_id: string; op: string; reason: string | null };
    const { topology_id, seq, ts } = event;
    all.value = [...all.peek(), { topology_id, mutation_id, op, reason: reason ?? 'no reason given', seq, ts }]
      .slice(-mostFailures);
  });
  return {
    all,
    dismiss: (...failures) => { all.value = all.peek().filter((failure) => !failures.includes(failure)); },
  };
}
