// The lifecycle of the topology that is open: how it is and why, and the steps that are legal now.
import { useId, useLayoutEffect, useRef, useState } from 'preact/hooks';
import '../style/lifecycle.css';
import type { App } from '../app.ts';
import { stepsFrom, statusWord, type Step } from '../state/lifecycle.ts';
import { panelOf } from '../state/steps.ts';
import { Create } from './create.tsx';
import { useApp } from './context.ts';
import { Buttons, Dialog, Refusal } from './stepdialog.tsx';
import { PsqlDrawer } from './inject.tsx';
import { Status } from './status.tsx';
import { clock } from './time.ts';

/** A button that says how the topology is, with a menu of what may become of it: for the bar. */
export function Lifecycle() {
  const { steps, route, commands } = useApp();
  const [open, setOpen] = useState(false);
  const root = useRef<HTMLDivElement>(null);
  const id = useId();
  const standing = steps.standing.value;
  const allowed = steps.allowed.value;
  useLayoutEffect(() => {
    if (!open) return undefined;
    root.current?.querySelector<HTMLElement>('[role=menuitem]')?.focus();
    const outside = (event: Event): void => {
      if (!root.current?.contains(event.target as Node)) setOpen(false);
    };
    window.addEventListener('pointerdown', outside);
    return () => window.removeEventListener('pointerdown', outside);
  }, [open]);
  if (!standing) return null;
  if (allowed !== true) return <span class="lifecycle" title={allowed}><Status status={standing.status} /></span>;

  const close = (): void => {
    setOpen(false);
    root.current?.querySelector('button')?.focus();
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (!open) return;
    const items = [...root.current!.querySelectorAll<HTMLElement>('[role=menuitem]')];
    const at = items.indexOf(document.activeElement as HTMLElement);
    const to = ({
      ArrowDown: at + 1, ArrowUp: at - 1 + items.length, Home: 0, End: items.length - 1,
    } as Record<string, number>)[event.key];
    if (to !== undefined) items[to % items.length]?.focus();
    else if (event.key === 'Escape') close();
    else if (event.key === 'Tab') setOpen(false);
    if (to === undefined && event.key !== 'Escape') return;
    event.preventDefault();
    event.stopPropagation();
  };
  const item = (key: string, title: string, says: string, run: () => void, busy = false) => (
    <button key={key} type="button" role="menuitem" tabIndex={-1} data-step={key} aria-disabled={busy || undefined}
      onClick={() => { if (!busy) { close(); run(); } }}>
      <span>{title}</span><small>{says}</small>
    </button>
  );
  return (
    <div class="lifecycle" ref={root} onKeyDown={onKeyDown}>
      <button
        type="button" class="button" aria-haspopup="menu" aria-expanded={open} aria-controls={id}
        aria-label={`${standing.name} is ${statusWord[standing.status]}: what may become of it`}
        onClick={() => setOpen(!open)}
      >
        <Status status={standing.status} /><span aria-hidden="true">▾</span>
      </button>
      {open && (
        <div class="menu" id={id} role="menu" aria-label="Lifecycle">
          {stepsFrom(standing.status).map((step) =>
            item(step.to, label(step), step.says, () => steps.start(step), steps.busy.value))}
          {item('delete', 'Delete…', 'With all that is in it. Nothing brings it back.',
            () => { commands.run('topology.delete'); })}
          {item('psql', 'Do it in psql', 'The lines that do the same by hand.', () => route.go({ panel: 'inject' }))}
        </div>
      )}
    </div>
  );
}

const label = (step: Step): string => (step.asks ? `${step.title}…` : step.title);

/** The same for the inspector: with the reason, and each step a button. Of an older seq, how it was then. */
export function LifecycleSection() {
  const { steps, commands, past } = useApp();
  const inDialog = openPanel(useApp()) !== null;
  const standing = steps.standing.value;
  if (!standing) return null;
  const then = past.value;
  const { since } = standing;
  const { status, reason } = then ?? standing;
  const allowed = steps.allowed.value;
  return (
    <section class="lifecycle-section" aria-label="Lifecycle">
      <p class="standing">
        <Status status={status} />
        {then ? <span>as of <span class="mono">{then.seq}</span>; now {statusWord[standing.status]}</span>
          : since && <span>since <time dateTime={since} title={since}>{clock(since)}</time></span>}
      </p>
      {reason && <blockquote class="reason" data-status={status}>{reason}</blockquote>}
      {allowed === true ? (
        <div class="buttons">
          {stepsFrom(status).map((step) => (
            <button
              key={step.to} type="button" class="button" title={step.says} data-step={step.to}
              disabled={steps.busy.value} onClick={() => steps.start(step)}
            >
              {label(step)}
            </button>
          ))}
          <button type="button" class="button" data-step="delete" onClick={() => commands.run('topology.delete')}>
            Delete…
          </button>
        </div>
      ) : <p class="quiet">{allowed}</p>}
      <Refusal shown={inDialog} />
    </section>
  );
}

/** The dialog that the address opens; null if it opens none, or one that is not for this token or this status. */
function openPanel({ route, steps }: App): 'create' | 'delete' | Step | null {
  const { panel } = route.current.value;
  const standing = steps.standing.value;
  if (panel === 'create') return steps.mayCreate.value === true ? panel : null;
  if (!standing || steps.allowed.value !== true) return null;
  if (panel === 'delete') return panel;
  return stepsFrom(standing.status).find((one) => panel === panelOf(one.to)) ?? null;
}

/** Whatever of the lifecycle the address opens: a dialog, or the drawer. */
export function LifecyclePanels() {
  const app = useApp();
  const { panel } = app.route.current.value;
  const standing = app.steps.standing.value;
  const open = openPanel(app);
  const deleted = app.live.open.value?.part === 'deleted';
  const overtaken = open === null && (panel.startsWith('status-') ? standing !== null || deleted
    : panel === 'delete' && deleted);
  // Somebody else was first: it does not open by itself when it is legal again, or for another. At once: what is opened
  // before the next frame is not closed by it.
  useLayoutEffect(() => {
    if (overtaken) app.route.go({ panel: '' }, true);
  }, [overtaken]);
  if (panel === 'inject') return <PsqlDrawer />;
  if (open === 'create') return <Create />;
  if (!open || !standing) return null;
  if (open === 'delete') return <Delete key={standing.id} name={standing.name} />;
  return <Ask key={`${standing.id} ${open.to}`} step={open} name={standing.name} />;
}

function Ask({ step, name }: { step: Step; name: string }) {
  const { steps } = useApp();
  const [reason, setReason] = useState('');
  const submit = (event: Event): void => {
    event.preventDefault();
    void steps.change(step.to, reason.trim() || null);
  };
  return (
    <Dialog title={`${step.title}: ${name}`}>
      <form onSubmit={submit}>
        <p>{step.says}</p>
        <label class="field">
          <span>Reason, for whoever looks next <small>(may be left out)</small></span>
          <input name="reason" value={reason} autoComplete="off" onInput={(e) => setReason(e.currentTarget.value)} />
        </label>
        <Refusal />
        <Buttons go={step.title} danger={step.to === 'tearing_down' || step.to === 'torn_down'} />
      </form>
    </Dialog>
  );
}

function Delete({ name }: { name: string }) {
  const { steps } = useApp();
  const [typed, setTyped] = useState('');
  const submit = (event: Event): void => {
    event.preventDefault();
    if (typed === name) void steps.remove();
  };
  return (
    <Dialog title={`Delete ${name}`}>
      <form onSubmit={submit}>
        <p>Its LANs, deckies and mutations go with it, whatever runs. Nothing brings them back.</p>
        <label class="field">
          <span>Type <code>{name}</code> to delete it</span>
          <input name="name" value={typed} autoComplete="off" spellcheck={false}
            onInput={(e) => setTyped(e.currentTarget.value)} />
        </label>
        <Refusal />
        <Buttons go="Delete" danger disabled={typed !== name} />
      </form>
    </Dialog>
  );
}
