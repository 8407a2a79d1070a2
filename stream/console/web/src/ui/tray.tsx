import type { Line } from '../edit/diff.ts';
import type { Edit, Other, Sending } from '../edit/edit.ts';
import type { Outcome } from '../edit/rebase.ts';
import { useApp } from './context.ts';
import { keyText } from './keytext.ts';

let watched: ResizeObserver | null = null;
/** Makes the canvas end where the tray begins: the style sheet has the tray's height as --tray. */
export function giveRoom(tray: HTMLElement | null): void {
  const { style } = document.documentElement;
  watched?.disconnect();
  if (!tray) return void style.removeProperty('--tray');
  watched = new ResizeObserver(() => style.setProperty('--tray', `${tray.offsetHeight}px`));
  watched.observe(tray);
}

const edits = (count: number): string => count === 1 ? '1 edit' : `${count} edits`;

/** What is staged, as a readable diff, and its way to the server. */
export function Tray() {
  const { editable, editing: { edit } } = useApp();
  const { ops, past, future } = edit.staged.value;
  const sending = edit.sending.value;
  const notice = edit.notice.value;
  if (!ops.length && !future.length && !past.length && sending.state === 'none' && !notice) return null;
  const outcomes = edit.outcomes.value;
  const busy = sending.state === 'sending' || sending.state === 'waiting';
  return (
    <section ref={giveRoom} class="edit-tray" aria-label="Staged edits" data-state={sending.state}>
      <header>
        <h2>
          <span class="edit-mark" aria-hidden="true" />
          {ops.length ? `${edits(ops.length)} staged` : 'Nothing staged'}
        </h2>
        <Told edit={edit} sending={sending} />
        <span class="edit-space" />
        <Button command="edit.undo" text="Undo" />
        <Button command="edit.redo" text="Redo" />
        <Button command="edit.discard" text="Discard" />
        <Button command="edit.apply" text="Apply" primary />
      </header>
      {editable.value !== true && <p class="edit-notice edit-quiet">{editable.value}</p>}
      {notice && notice !== editable.value && (
        <p class="edit-notice" role="status">{notice} <Dismiss edit={edit} /></p>
      )}
      {sending.state === 'conflict' && <Conflict edit={edit} sending={sending} outcomes={outcomes} />}
      {ops.length > 0 && (
        <ol class="edit-diff" aria-busy={busy}>
          {edit.lines.value.map((line, i) => (
            <Row key={i} line={line} outcome={outcomes[i]}
              failure={sending.state === 'failed' && sending.index === i ? sending.reason : null}
              onRemove={busy ? null : () => edit.unstage(i)} />
          ))}
        </ol>
      )}
    </section>
  );
}

export function Dismiss({ edit }: { edit: Edit }) {
  return <button type="button" class="edit-button edit-small" onClick={edit.dismiss}>Dismiss</button>;
}

/** How far the change set is on its way, in words. */
function Told({ edit, sending }: { edit: Edit; sending: Sending }) {
  const { live } = useApp();
  switch (sending.state) {
    case 'sending': return <p class="edit-told" data-tone="applying" role="status">◐ sending</p>;
    case 'waiting': {
      const row = live.open.value?.in_flight.find(({ id }) => id === sending.mutation);
      const phase = row?.state === 'applying' ? 'being applied' : 'waiting to be applied';
      return <p class="edit-told" data-tone="applying" role="status">◐ {phase}</p>;
    }
    case 'applied': return (
      <p class="edit-told" role="status">
        ✓ {edits(sending.count)} applied, version {sending.version} <Dismiss edit={edit} />
      </p>
    );
    case 'failed': return (
      <p class="edit-told" data-tone="failed" role="alert">
        ✕ failed: <code>{sending.reason}</code> <Dismiss edit={edit} />
      </p>
    );
    case 'refused': return (
      <p class="edit-told" data-tone="failed" role="alert">
        ✕ not taken: <code>{sending.reason}</code> <Dismiss edit={edit} />
      </p>
    );
    case 'unanswered': return (
      <p class="edit-told" data-tone="degraded" role="alert">
        ▲ <code>{sending.reason}</code> It may have been taken. Apply asks again, and it is done once.{' '}
        <Dismiss edit={edit} />
      </p>
    );
    case 'conflict': return <p class="edit-told" data-tone="degraded" role="alert">▲ others were first</p>;
    default: return null;
  }
}

const words: Readonly<Record<Outcome['state'], string>> = { valid: '', changed: 'changed', conflict: 'conflict' };
const shapes: Readonly<Record<Outcome['state'], string>> = { valid: '', changed: '▲', conflict: '✕' };

function Row({ line, outcome, failure, onRemove }: {
  line: Line; outcome: Outcome | undefined; failure: string | null; onRemove: (() => void) | null;
}) {
  const state = outcome?.state ?? 'valid';
  return (
    <li data-outcome={failure ? 'failed' : state}>
      <span class="edit-sign" data-sign={line.sign}>{line.sign}</span>
      <span class="edit-text">{line.text}</span>
      {failure && <span class="edit-why" data-tone="failed">✕ {failure.replace(/^ops\[\d+\]: /, '')}</span>}
      {!failure && outcome?.reason && (
        <span class="edit-why" data-tone={state === 'conflict' ? 'failed' : 'degraded'}>
          {shapes[state]} {words[state]}: {outcome.reason}
        </span>
      )}
      {onRemove && (
        <button type="button" class="edit-button edit-small" aria-label={`Take back: ${line.text}`} onClick={onRemove}>
          ×
        </button>
      )}
    </li>
  );
}

function Conflict({ edit, sending, outcomes }: {
  edit: Edit; sending: Extract<Sending, { state: 'conflict' }>; outcomes: readonly Outcome[];
}) {
  const kept = outcomes.filter(({ state }) => state !== 'conflict').length;
  const lost = outcomes.length - kept;
  return (
    <div class="edit-conflict">
      <p><code>{sending.reason}</code></p>
      <h3>What others have done since you began</h3>
      <ul>
        {sending.others.map((other) => <OtherRow key={other.seq} other={other} />)}
        {!sending.others.length && !sending.more && <li class="edit-quiet">the stream tells of nothing yet</li>}
        {sending.more > 0 && <li class="edit-quiet">and {sending.more} more events, which are not listed</li>}
      </ul>
      <p>
        {lost === 0 ? 'All of yours can still be done.'
          : `${edits(kept)} of yours can still be done, ${edits(lost)} cannot: see below why.`}
      </p>
      <div class="edit-buttons">
        <button type="button" class="edit-button" onClick={edit.dismiss}>Dismiss</button>
        <button type="button" class="edit-button edit-primary" data-command="edit.rebase" onClick={edit.rebase}>
          {lost === 0 ? `Rebase: keep all ${kept}` : `Rebase: keep ${kept}, drop ${lost}`}
        </button>
      </div>
    </div>
  );
}

function OtherRow({ other }: { other: Other }) {
  const said = other.lines.length ? other.lines : [{ sign: '~' as const, text: 'nothing of the graph' }];
  return (
    <li>
      <span class="mono edit-quiet">{other.seq}</span> {other.by}:{' '}
      {said.slice(0, 6).map(({ sign, text }) => `${sign} ${text}`).join('; ')}
      {said.length > 6 && `; and ${said.length - 6} more`}
    </li>
  );
}

function Button({ command: id, text, primary = false }: { command: string; text: string; primary?: boolean }) {
  const { commands } = useApp();
  const command = commands.all.value.find((one) => one.id === id);
  const can = command?.enabled?.() ?? true;
  return (
    <button type="button" class={`edit-button${primary ? ' edit-primary' : ''}`} data-command={id}
      aria-disabled={can === true ? undefined : true} title={can === true ? undefined : can}
      onClick={() => void commands.run(id)}>
      {text} {command?.keys && <kbd>{keyText(command.keys)}</kbd>}
    </button>
  );
}
