import { sizes, type Pane } from '../state/layout.ts';
import { useApp } from './context.ts';

/** The edge of a pane, to be dragged, or moved by arrows. */
export function Resizer({ pane }: { readonly pane: Pane }) {
  const { layout } = useApp();
  const size = layout.size[pane];
  const { min, max, usual } = sizes[pane];
  const across = pane === 'timeline';
  const sign = pane === 'list' ? 1 : -1;
  const set = (to: number): void => { size.value = Math.round(Math.max(min, Math.min(max, to))); };
  const onPointerDown = (event: PointerEvent): void => {
    const edge = event.currentTarget as HTMLElement;
    const from = across ? event.clientY : event.clientX;
    const was = size.peek();
    edge.setPointerCapture(event.pointerId);
    const move = (e: PointerEvent): void => set(was + sign * ((across ? e.clientY : e.clientX) - from));
    edge.addEventListener('pointermove', move);
    edge.addEventListener('pointerup', () => edge.removeEventListener('pointermove', move), { once: true });
    event.preventDefault();
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const [less, more] = across ? ['ArrowDown', 'ArrowUp']
      : pane === 'list' ? ['ArrowLeft', 'ArrowRight'] : ['ArrowRight', 'ArrowLeft'];
    if (event.key !== less && event.key !== more) return;
    set(size.peek() + (event.key === more ? 16 : -16));
    event.preventDefault();
    event.stopPropagation();
  };
  return <div class={`resizer resizer-${pane}`} role="separator" tabIndex={0} aria-label={`Size of the ${pane}`}
    aria-orientation={across ? 'horizontal' : 'vertical'} aria-valuenow={size.value} aria-valuemin={min}
    aria-valuemax={max} onPointerDown={onPointerDown} onKeyDown={onKeyDown} onDblClick={() => set(usual)} />;
}
