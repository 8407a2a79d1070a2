import { AsOf } from './scrub.tsx';

export function Canvas() {
  return <main class="canvas" aria-label="Graph"><AsOf /></main>;
}
