import { Scrubber } from './scrub.tsx';

export function Timeline() {
  return <section class="timeline" aria-label="Timeline"><Scrubber /></section>;
}
