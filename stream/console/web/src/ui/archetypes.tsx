import { useSignal } from '@preact/signals';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { itemType } from '../graph/intents.ts';
import { useApp } from './context.ts';
import { keyText } from './keytext.ts';

interface Entry {
  readonly item: string;
  readonly title: string;
  readonly says: string;
  readonly shape: 'lan' | 'dmz' | 'decky' | 'gateway';
  readonly keys?: string;
}

/** What can be added: by a drag onto the canvas, a LAN or a decky, or by a press, which asks where. */
export function Archetypes() {
  const { editing: { archetypes, ask } } = useApp();
  const open = useSignal(false);
  const dragging = useSignal(false); // the pointer then passes through the list to what lies beneath
  const start = useRef(0);
  useLayoutEffect(() => { // from the beginning: a drag may be over before the frame that shows it
    const over = (): void => {
      clearTimeout(start.current);
      dragging.value = false;
    };
    const ends = ['dragend', 'drop', 'pointerdown'] as const;
    for (const type of ends) window.addEventListener(type, over, true);
    return () => { for (const type of ends) window.removeEventListener(type, over, true); };
  }, []);
  const kinds = archetypes.value;
  const entries: Entry[] = [
    { item: 'lan', title: 'Subnet', says: 'the next free /24', shape: 'lan', keys: 'w' },
    { item: 'dmz', title: 'DMZ', says: 'one a topology', shape: 'dmz' },
    ...(kinds === null || typeof kinds === 'string' ? [] : kinds.map(({ id, title, services, forwards_l3 }): Entry => ({
      item: `decky:${id}`, title, says: services.join(', ') || 'no services', shape: forwards_l3 ? 'gateway' : 'decky',
    }))),
  ];
  const onKey = (event: KeyboardEvent): void => {
    if (event.key === 'Escape') open.value = false;
    else if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      const all = [...(event.currentTarget as HTMLElement).querySelectorAll<HTMLElement>('button')];
      const at = all.indexOf(document.activeElement as HTMLElement) + (event.key === 'ArrowDown' ? 1 : -1);
      all[(at + all.length) % all.length]?.focus();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <section class="edit-palette" aria-label="Add to the graph" data-dragging={dragging.value || undefined}
      onKeyDown={onKey}>
      <button type="button" class="edit-button" aria-expanded={open.value}
        onClick={() => { open.value = !open.value; }}>
        Add <span aria-hidden="true">{open.value ? '▴' : '▾'}</span>
      </button>
      {open.value && (
        <ul>
          {entries.map(({ item, title, says, shape, keys }) => (
            <li key={item}>
              <button type="button" class="edit-palette-item" draggable data-item={item} onClick={() => ask(item)}
                onDragStart={(event) => {
                  event.dataTransfer?.setData(itemType, item);
                  event.dataTransfer?.setData('text/plain', item);
                  // Afterwards: a change of the page within this event would end the drag.
                  start.current = window.setTimeout(() => { dragging.value = true; });
                }}>
                <span class="edit-shape" data-shape={shape} aria-hidden="true" />
                <span>{title}</span>
                <span class="edit-quiet">{says}</span>
                {keys && <kbd>{keyText(keys)}</kbd>}
              </button>
            </li>
          ))}
          {typeof kinds === 'string' && <li class="edit-error">{kinds}</li>}
        </ul>
      )}
    </section>
  );
}
