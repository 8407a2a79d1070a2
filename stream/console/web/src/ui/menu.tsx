import { useLayoutEffect, useRef } from 'preact/hooks';
import type { Command } from '../state/commands.ts';
import { useApp } from './context.ts';
import { keyText } from './keytext.ts';

/** The context menu: commands of the registry, with their keys, and why one cannot be done. */
export function ContextMenu() {
  const { editing: { menu }, commands } = useApp();
  const open = menu.value;
  const ref = useRef<HTMLDivElement>(null);
  useLayoutEffect(() => {
    const box = ref.current;
    if (!open || !box) return;
    // Where there is no room to the right or below it opens the other way.
    box.style.left = `${Math.max(0, Math.min(open.x, window.innerWidth - box.offsetWidth - 8))}px`;
    box.style.top = `${Math.max(0, Math.min(open.y, window.innerHeight - box.offsetHeight - 8))}px`;
    const before = document.activeElement;
    items(box)[0]?.focus();
    return () => { if (before instanceof HTMLElement && before !== document.body) before.focus(); };
  }, [open]);
  useLayoutEffect(() => { // before the next frame: what is pressed then closes it
    if (!open) return undefined;
    const outside = (event: Event): void => {
      if (!(event.target instanceof Node && ref.current?.contains(event.target))) menu.value = null;
    };
    window.addEventListener('pointerdown', outside, true);
    window.addEventListener('blur', outside);
    window.addEventListener('resize', outside);
    return () => {
      window.removeEventListener('pointerdown', outside, true);
      window.removeEventListener('blur', outside);
      window.removeEventListener('resize', outside);
    };
  }, [open, menu]);
  if (!open) return null;

  const onKey = (event: KeyboardEvent): void => {
    const all = items(ref.current!);
    const at = all.indexOf(document.activeElement as HTMLElement);
    const go = (index: number): void => all[(index + all.length) % all.length]?.focus();
    if (event.key === 'ArrowDown') go(at + 1);
    else if (event.key === 'ArrowUp') go(at - 1);
    else if (event.key === 'Home') go(0);
    else if (event.key === 'End') go(-1);
    else if (event.key === 'Escape' || event.key === 'Tab') menu.value = null;
    else if (/^\p{L}$/u.test(event.key) && !event.ctrlKey && !event.metaKey) { // to the next that begins so
      const letter = event.key.toLowerCase();
      const ring = [...all.slice(at + 1), ...all.slice(0, at + 1)];
      ring.find((item) => item.textContent?.toLowerCase().startsWith(letter))?.focus();
    } else if (event.key !== 'Enter' && event.key !== ' ') return;
    else { event.stopPropagation(); return; } // the button's own click
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <section class="edit-menu-region" aria-label="Menu">
      <div ref={ref} class="edit-menu" role="menu" aria-label={open.title} onKeyDown={onKey}
        onContextMenu={(event) => event.preventDefault()}>
        <div class="edit-menu-title" role="presentation">{open.title}</div>
        {open.items.map((id, i) => {
          const command = id && commands.all.value.find((one) => one.id === id);
          return command ? <Item key={id} command={command} onDone={() => { menu.value = null; }} />
            : <div key={i} class="edit-menu-line" role="separator" />;
        })}
      </div>
    </section>
  );
}

const items = (menu: HTMLElement): HTMLElement[] => [...menu.querySelectorAll<HTMLElement>('[role=menuitem]')];

function Item({ command, onDone }: { command: Command; onDone: () => void }) {
  const can = command.enabled?.() ?? true;
  return (
    <button type="button" role="menuitem" class="edit-menu-item" data-command={command.id} tabIndex={-1}
      aria-disabled={can === true ? undefined : true}
      aria-keyshortcuts={command.keys?.replace('Mod', 'Control').replaceAll('-', '+')}
      onPointerMove={(event) => event.currentTarget.focus()}
      onClick={() => {
        if (can !== true) return;
        onDone(); // first, so that a dialog has the focus after it
        command.run();
      }}>
      <span>{command.title}</span>
      {command.keys && <kbd>{keyText(command.keys)}</kbd>}
      {can !== true && <span class="edit-menu-reason">{can}</span>}
    </button>
  );
}
