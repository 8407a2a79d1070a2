import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { GraphController } from '../graph/controller.ts';
import { findInScene } from '../graph/find.ts';
import { isComposing } from '../state/commands.ts';
import { HealthMark } from './health-mark.tsx';

/** Finds by name, address, subnet or id, and brings it to the middle. */
export function Find({ graph, close }: { graph: GraphController; close: () => void }) {
  const input = useRef<HTMLInputElement>(null);
  const [text, setText] = useState('');
  const [active, setActive] = useState(0);
  useLayoutEffect(() => input.current?.focus(), []); // the next letter is for it
  const found = findInScene(graph.scene.value, text);
  const shown = found.slice(0, 8);
  const go = (n: number): void => {
    const item = shown[n];
    if (!item) return;
    if (item.row) graph.select([{ kind: item.kind, key: item.key }]);
    graph.centre(item.id);
  };
  const onKey = (event: KeyboardEvent): void => {
    if (isComposing(event)) return;
    if (event.key === 'Escape') close();
    else if (event.key === 'Enter') go(active);
    else if (event.key === 'ArrowDown' || event.key === 'ArrowUp') {
      const next = Math.max(0, Math.min(shown.length - 1, active + (event.key === 'ArrowDown' ? 1 : -1)));
      setActive(next);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <div class="find" role="search">
      <input
        ref={input} type="text" role="combobox" aria-label="Find in the graph" aria-expanded={shown.length > 0}
        aria-controls="find-results" aria-autocomplete="list" placeholder="Name, address or id" autocomplete="off"
        spellcheck={false} aria-activedescendant={shown[active] ? 'find-' + active : undefined} value={text}
        onInput={(event) => {
          setText(event.currentTarget.value);
          setActive(0);
        }}
        onKeyDown={onKey}
      />
      <span class="find-count" role="status">{text && (found.length ? `${found.length} found` : 'nothing found')}</span>
      <button type="button" aria-label="Close the search" onClick={close}>×</button>
      <ul id="find-results" role="listbox" aria-label="Found" hidden={!shown.length}>
        {shown.map((item, n) => (
          <li
            key={item.id} id={'find-' + n} role="option" aria-selected={n === active}
            onPointerDown={(event) => event.preventDefault()}
            onClick={() => {
              setActive(n);
              go(n);
            }}
          >
            {item.kind === 'decky' ? <HealthMark health={item.health} /> : <span class="find-kind">LAN</span>}
            <span>{item.name}</span>
            <code>{item.kind === 'decky' ? item.ip : item.subnet}</code>
          </li>
        ))}
      </ul>
    </div>
  );
}
