import type { Failure } from '../state/failures.ts';
import { useApp } from './context.ts';
import { Copy } from './copy.tsx';

/** What failed in the topology that is open, word by word, until it is dismissed. */
export function FailureStrip() {
  const { failures, route } = useApp();
  const id = route.current.value.topology;
  const here = failures.all.value.filter((failure) => failure.topology_id === id);
  if (!here.length) return null;
  return (
    <section class="failures" aria-label="Failed edits">
      {here.length > 1 && (
        <header>
          <strong>{here.length} edits failed</strong>
          <button type="button" onClick={() => failures.dismiss(...here)}>Dismiss all</button>
        </header>
      )}
      <ul>
        {here.toReversed().map((failure) => <FailureRow key={failure.seq} failure={failure} />)}
      </ul>
    </section>
  );
}

function FailureRow({ failure }: { failure: Failure }) {
  const { failures, route } = useApp();
  const { op, reason, seq, mutation_id } = failure;
  return (
    <li data-failure={mutation_id}>
      <svg viewBox="0 0 8 8" width="8" height="8" aria-hidden="true"><rect width="8" height="8" /></svg>
      <span class="failed-op">{op} failed</span>
      <span class="failed-reason" data-reason>{reason}</span>
      <span class="failed-acts">
        <button type="button" onClick={() => route.go({ selection: [{ kind: 'event', key: String(seq) }] })}>
          <code>{seq}</code>
        </button>
        <Copy text={() => reason} label={`Copy the reason why ${op} failed`} />
        <button type="button" aria-label={`Dismiss: ${op} failed`} onClick={() => failures.dismiss(failure)}>
          Dismiss
        </button>
      </span>
    </li>
  );
}
