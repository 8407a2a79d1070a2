import { LifecycleSection } from './lifecycle.tsx';
import { RevertButton } from './revert.tsx';

export function Inspector() {
  return <aside class="inspector" aria-label="Inspector"><LifecycleSection /><RevertButton /></aside>;
}
