import type { Health } from '../graph/health.ts';

const shapes: Record<Health, string> = {
  healthy: 'M11 6a3 3 0 1 1-6 0a3 3 0 1 1 6 0z',
  pending: 'M11 6a3 3 0 1 1-6 0a3 3 0 1 1 6 0z',
  degraded: 'M8 1.5L12 9.5H4z',
  failed: 'M5 3h6v6H5z',
  stopped: 'M4.5 5h7v2h-7z',
  other: 'M8 2.5v7M4.5 6h7',
};

/** A state's shape in its colour, as the graph draws it; the word stands beside it. */
export function HealthMark({ health }: { health: Health }) {
  return (
    <svg viewBox="0 0 16 12" class="health" data-health={health} aria-hidden="true"><path d={shapes[health]} /></svg>
  );
}
