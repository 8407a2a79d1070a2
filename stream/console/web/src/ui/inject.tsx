// The drawer that teaches the database interface: what the page shows, as lines for psql.
import { signal } from '@preact/signals';
import { useLayoutEffect, useRef } from 'preact/hooks';
import '../style/lifecycle.css';
import {
  createTopology, filling, linesFor, linesOf, shellLine, stagedLine, type Line, type Subject,
} from '../state/psql.ts';
import { useApp } from './context.ts';
import { Copy } from './copy.tsx';
import { useEscape } from './escape.ts';

/** For a shell, or for psql's own prompt. */
const form = signal<'shell' | 'sql'>('shell');

/** A line to type, with what it does and a button that copies it. */
export function PsqlLine({ line }: { line: Line }) {
  const text = form.value === 'shell' ? shellLine(line.sql) : line.sql;
  return (
    <figure class="psql-line" data-line={line.id}>
      <figcaption>{line.title}{line.says && <small>{line.says}</small>}</figcaption>
      <pre><code>{text}</code></pre>
      <Copy text={() => text} label={`Copy: ${line.title}`} look="button" />
    </figure>
  );
}

/** The topology that is open, as the lines name it; null while none is, or an older seq is shown. */
function useSubject(): Subject | null {
  const { steps, live, route } = useApp();
  const standing = steps.standing.value;
  return standing && route.current.value.at === null ? { ...standing, graph: live.open.value?.graph ?? null } : null;
}

/** Where a list has nothing: the line that fills it. */
export function Fill({ what, of = null }: { what: Parameters<typeof filling>[1]; of?: string | null }) {
  const subject = useSubject();
  return subject && <PsqlLine line={filling(subject, what, of)} />;
}

/** The same, folded, where an empty list is usual. */
export function FoldedFill(props: Parameters<typeof Fill>[0]) {
  return <details class="fill"><summary>in psql</summary><Fill {...props} /></details>;
}

function Lines({ title, lines }: { title: string; lines: readonly Line[] }) {
  if (lines.length === 0) return null;
  return (
    <section aria-label={title}>
      <h3>{title}</h3>
      {lines.map((line) => <PsqlLine key={line.id} line={line} />)}
    </section>
  );
}

export function PsqlDrawer() {
  const { route, steps, live, staged } = useApp();
  const close = (): void => route.go({ panel: '' });
  const ref = useRef<HTMLElement>(null);
  useLayoutEffect(() => { // the keyboard follows the eye, and comes back unless it has gone elsewhere meanwhile
    const before = document.activeElement;
    ref.current!.focus();
    return () => {
      const isHere = ref.current?.contains(document.activeElement) ?? false;
      if (isHere && before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
  useEscape('Close the psql drawer', close);
  const standing = steps.standing.value;
  const subject = standing && { ...standing, graph: live.open.value?.graph ?? null };
  const stagedAsOne = standing && stagedLine(standing.name, staged.value);
  const choice = (value: 'shell' | 'sql', title: string) => (
    <label class="choice">
      <input type="radio" name="form" checked={form.value === value} onChange={() => { form.value = value; }} />
      <span>{title}</span>
    </label>
  );
  return (
    <aside ref={ref} class="drawer" aria-label="psql" tabIndex={-1}>
      <header>
        <h2>Do it in psql</h2>
        <button type="button" class="button" aria-label="Close the psql drawer" onClick={close}>✕</button>
      </header>
      <p>
        The tables are the interface: whatever writes to them takes part, and everybody who looks sees it at once.
        {form.value === 'shell' && <> DATABASE_URL is the server’s <code>--database-url</code>.</>}
      </p>
      <fieldset><legend class="visually-hidden">Write the lines for</legend>
        {choice('shell', 'a shell')}{choice('sql', 'psql’s prompt')}
      </fieldset>
      {stagedAsOne && <Lines title="Staged" lines={[stagedAsOne]} />}
      {subject && <Lines title="Selected" lines={route.current.value.selection.slice(0, 5)
        .flatMap((one) => linesFor(subject, one)).map((line, i) => ({ ...line, id: `selected-${i}` }))} />}
      {subject && <Lines title={standing.name} lines={linesOf(subject)} />}
      {!subject && <Lines title="Nothing is open" lines={[createTopology('my-first')]} />}
    </aside>
  );
}
