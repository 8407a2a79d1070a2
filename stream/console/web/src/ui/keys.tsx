import { useApp } from './context.ts';
import { Dialog } from './dialog.tsx';
import { keyText } from './keytext.ts';

const fixed: readonly (readonly [group: string, title: string, keys: string])[] = [
  ['List', 'From row to row', '↑ ↓'], ['List', 'Open the row', 'Enter'],
  ['Timeline', 'From event to event', '↑ ↓'], ['Timeline', 'Payload of the event', 'Enter'],
  ['Graph', 'From LAN to LAN, or decky to decky', '← ↑ → ↓'], ['Graph', 'Select; again: into the LAN', 'Enter'],
  ['Graph', 'Select, or not, beside what is selected', 'Space'], ['Graph', 'From a decky to its LAN', 'Backspace'],
  ['Graph', 'Zoom in, out, to 100 %', '+ − 0'], ['Graph', 'Select what is within a frame', 'Shift-drag'],
  ['Older seqs', 'One event back, on', '← →'], ['Older seqs', 'To where the journal begins', 'Home'],
  ['Older seqs', 'Back to now', 'End'],
];

/** All keys that mean something, by group. */
export function Keys() {
  const { commands, route } = useApp();
  const lines = [
    ...commands.all.value.flatMap(({ group, title, keys, also }) =>
      keys ? [[group, title, [keys, also].flatMap((one) => one ? [keyText(one)] : [])] as const] : []),
    ...fixed.map(([group, title, keys]) => [group, title, [keyText(keys)]] as const),
  ];
  const groups = [...new Set(lines.map(([group]) => group))];
  return (
    <Dialog label="Keys" class="keys" onClose={() => route.go({ panel: '' }, true)}>
      <h2>Keys</h2>
      <div class="keys-groups" tabIndex={0} role="group" aria-label="Keys by what they are for">
        {groups.map((group) => (
          <section key={group}>
            <h3>{group}</h3>
            <dl>{lines.filter(([of]) => of === group).map(([, title, keys]) => (
              <div key={title}><dt>{title}</dt><dd>{keys.map((key) => <kbd key={key}>{key}</kbd>)}</dd></div>
            ))}</dl>
          </section>
        ))}
      </div>
    </Dialog>
  );
}
