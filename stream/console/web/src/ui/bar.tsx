import { Lifecycle } from './lifecycle.tsx';

export function Bar() {
  return <header class="bar" aria-label="Connection"><Lifecycle /></header>;
}
