import type { TopologyStatus } from 'topostream';
import { statusWord } from '../state/lifecycle.ts';

/** A status as colour and shape and word. */
export function Status({ status }: { readonly status: TopologyStatus }) {
  return <span class="status" data-status={status}><StatusMark status={status} />{statusWord[status]}</span>;
}

const shapes: Record<TopologyStatus, preact.JSX.Element> = {
  pending: <circle cx="6" cy="6" r="4" fill="none" stroke="currentColor" stroke-width="1.5" stroke-dasharray="2 1.6" />,
  deploying: <path d="M6 1.5 11 10.5H1Z" fill="none" stroke="currentColor" stroke-width="1.5" />,
  active: <circle cx="6" cy="6" r="3.5" fill="currentColor" />,
  degraded: <path d="M6 0.8 11.2 6 6 11.2 0.8 6Z" fill="currentColor" />,
  failed: <path d="M2 2 10 10M10 2 2 10" fill="none" stroke="currentColor" stroke-width="2.2" />,
  tearing_down: <path d="M6 10.5 1 1.5H11Z" fill="none" stroke="currentColor" stroke-width="1.5" />,
  torn_down: <path d="M1.5 6H10.5" fill="none" stroke="currentColor" stroke-width="1.8" />,
};

function StatusMark({ status }: { readonly status: TopologyStatus }) {
  return <svg class="mark" width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">{shapes[status]}</svg>;
}
