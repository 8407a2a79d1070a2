import { useLayoutEffect } from 'preact/hooks';
import { useApp } from './context.ts';

/** Escape does this while the component is there, before what was there earlier. */
export function useEscape(title: string, run: () => void): void {
  const { commands } = useApp();
  useLayoutEffect(
    () => commands.add({ id: `escape.${title}`, title, group: 'View', keys: 'Escape', run }), [commands]);
}
