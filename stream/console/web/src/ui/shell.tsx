import { useEffect } from 'preact/hooks';
import { Bar } from './bar.tsx';
import { useApp } from './context.ts';
import { List } from './list.tsx';
import { Canvas } from './canvas.tsx';
import { Inspector } from './inspector.tsx';
import { LifecyclePanels } from './lifecycle.tsx';
import { Timeline } from './timeline.tsx';

/** The page: bar above, list left, canvas in the middle, inspector right, timeline below. */
export function Shell() {
  const { commands } = useApp();
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => void commands.onKey(event);
    window.addEventListener('keydown', onKey);
    return () => window.removeEventListener('keydown', onKey);
  }, [commands]);
  return (
    <div class="shell">
      <Bar />
      <List />
      <Canvas />
      <Inspector />
      <Timeline />
      <LifecyclePanels />
    </div>
  );
}
