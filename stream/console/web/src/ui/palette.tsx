import { useSignal } from '@preact/signals';
import { useEffect, useMemo, useRef } from 'preact/hooks';
import { isComposing, type Command } from '../state/commands.ts';
import { nameKey } from '../state/rows.ts';
import '../style/palette.css';
import { useApp } from './context.ts';
import { Dialog } from './dialog.tsx';
import { keyText } from './keytext.ts';

/**
 * How well a text fits a search: 0 where each word of the search begins the text, more where it begins a word of it or
 * is within one; null where one is missing.
 */
function score(text: string, search: string): number | null {
  const lower = text.toLowerCase();
  let sum = 0;
  for (const word of search.toLowerCase().split(/\s+/).filter(Boolean)) {
    const at = lower.indexOf(word);
    if (at < 0) return null;
    sum += at === 0 ? 0 : /\W/.test(lower[at - 1]!) ? 1 : 3;
  }
  return sum;
}

interface Choice {
  readonly id: string;
  readonly group: string;
  readonly title: string;
  readonly keys: string | undefined;
  readonly can: true | string;
  readonly run: () => void;
}

/** Everything that can be done, and every topology, found by typing. */
export function Palette() {
  const { commands, live, route } = useApp();
  const search = useSignal('');
  const at = useSignal(0);
  const list = useRef<HTMLDivElement>(null);
  const all = commands.all.value;
  const rows = live.rows.value;
  const close = (): void => route.go({ panel: '' }, true);
  const text = search.value;
  const choices = useMemo(() => {
    const found: { readonly choice: Choice; readonly score: number }[] = [];
    const add = (choice: Choice, text: string): void => {
      const n = score(text, search.value);
      if (n !== null) found.push({ choice, score: n + (choice.can === true ? 0 : 5) });
    };
    for (const c of all) {
      if (c.id !== 'view.commands') add(choiceOf(c), c.title + ' ' + c.group);
    }
    if (search.value) {
      for (const row of rows ?? []) {
        if (found.length > 500) break;
        add({
          id: row.id, group: 'Open', title: row.name, keys: undefined, can: true,
          run: () => route.go({ topology: row.id, selection: [], at: null }),
        }, row.name);
      }
    }
    // Without a search what cannot be done comes last, and the order is the registry's.
    found.sort((a, b) => a.score - b.score
      || (search.value && nameKey(a.choice.title) < nameKey(b.choice.title) ? -1 : search.value ? 1 : 0));
    return found.slice(0, 50).map(({ choice }) => choice);
  }, [all, rows, text]);
  const chosen = Math.min(at.value, choices.length - 1);
  const run = (choice: Choice | undefined): void => {
    if (!choice || choice.can !== true) return;
    close();
    choice.run();
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (isComposing(event)) return;
    if (event.key === 'ArrowDown') at.value = Math.min(choices.length - 1, chosen + 1);
    else if (event.key === 'ArrowUp') at.value = Math.max(0, chosen - 1);
    else if (event.key === 'Enter') run(choices[chosen]);
    else return;
    event.preventDefault();
  };
  useEffect(() => {
    list.current?.querySelector('[aria-selected="true"]')?.scrollIntoView({ block: 'nearest' });
  }, [chosen, text]);
  return (
    <Dialog label="Commands" class="palette" onClose={close}>
      <input type="text" role="combobox" aria-expanded="true" aria-controls="palette-list" aria-autocomplete="list"
        aria-label="What do you want to do?" placeholder="A command, or a topology" autofocus spellcheck={false}
        autocomplete="off" value={text} onKeyDown={onKeyDown}
        aria-activedescendant={choices.length ? `palette-${chosen}` : undefined}
        onInput={(event) => { search.value = event.currentTarget.value; at.value = 0; }} />
      <div id="palette-list" role="listbox" aria-label="Commands" ref={list}>
        {choices.map((choice, i) => (
          <div role="option" id={`palette-${i}`} key={choice.id} aria-selected={i === chosen}
            aria-disabled={choice.can !== true} data-command={choice.id} onClick={() => run(choice)}
            onMouseMove={() => { at.value = i; }}>
            <span class="palette-group">{choice.group}</span>
            <span class="palette-title">{choice.title}{choice.can !== true && <em>{choice.can}</em>}</span>
            {choice.keys && <kbd>{keyText(choice.keys)}</kbd>}
          </div>
        ))}
      </div>
      {!choices.length && <p class="hint" role="status">Nothing is called so.</p>}
    </Dialog>
  );
}

const choiceOf = ({ id, group, title, keys, enabled, run }: Command): Choice =>
  ({ id, group, title, keys, can: enabled?.() ?? true, run });
