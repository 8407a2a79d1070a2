import type { TopologyStatus } from 'topostream';
import '../style/lifecycle.css';
import { statusWord } from '../state/lifecycle.ts';

// One shape each, so that no status is told by its colour alone: a 12-px drawing.
const shapes: Readonly<Record<TopologyStatus, string>> = {
  pending: 'M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0 -9', // a ring
  deploying: 'M6 1.5a4.5 4.5 0 1 0 0 9zM6 1.5a4.5 4.5 0 0 1 0 9', // half full
  active: 'M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0 -9', // full
  degraded: 'M6 1L11 10.5H1z', // a triangle
  failed: 'M2 2L10 10M10 2L2 10', // a cross
  tearing_down: 'M6 10.5L1 3H11z', // a triangle that points down
  torn_down: 'M2 6H10', // a line
};

/** A status as a shape and a word. */
export function StandingStatus({ status }: { status: TopologyStatus }) {
  return (
    <span class="standing-status" data-status={status}>
      <svg viewBox="0 0 12 12" width="12" height="12" aria-hidden="true"><path d={shapes[status]} /></svg>
      {statusWord[status]}
    </span>
  );
}
