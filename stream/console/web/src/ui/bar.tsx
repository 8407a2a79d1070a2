import { useRef } from 'preact/hooks';
import { sentence, holds } from '../state/promise.ts';
import { duration } from '../state/latency.ts';
import '../style/bar.css';
import { useApp } from './context.ts';
import { keyText } from './keytext.ts';
import { Lifecycle } from './lifecycle.tsx';
import { Status } from './status.tsx';

const marks = {
  calm: <circle cx="6" cy="6" r="3.5" fill="currentColor" />,
  busy: <path d="M6 1.5 11 10.5H1Z" fill="none" stroke="currentColor" stroke-width="1.5" />,
  bad: <path d="M2 2 10 10M10 2 2 10" fill="none" stroke="currentColor" stroke-width="2.2" />,
};

/** The signature, the topology that is open, and the buttons for the page as a whole. */
export function Bar() {
  const { session, route } = useApp();
  const { identity } = session;
  return (
    <header class="bar" aria-label="Connection">
      <Signature />
      <Open />
      <div class="bar-end">
        {identity.value && <span class="bar-who" title="Who is signed in">
          {identity.value.subject || 'nameless'} · {identity.value.role}
        </span>}
        <ThemeButton />
        {session.token.value && <Run id="session.signOut">Sign out</Run>}
        <button type="button" class="quiet-button" onClick={() => route.go({ panel: 'commands' })}
          aria-keyshortcuts="Control+K">Commands <kbd>{keyText('Mod-K')}</kbd></button>
      </div>
    </header>
  );
}

function Signature() {
  const { signature, route } = useApp();
  const { tone, text, detail } = signature.words.value;
  const count = signature.count.value;
  const latency = signature.latency.value;
  const counter = sentence(count, signature.head.value);
  const whole = holds(count);
  return (
    <div class="signature">
      <button type="button" class="signature-words" data-tone={tone} title={detail || undefined}
        onClick={() => route.go({ panel: 'signin' })} aria-label={`Connection: ${text}. Give another token`}>
        <svg class="mark" width="12" height="12" viewBox="0 0 12 12" aria-hidden="true">{marks[tone]}</svg>
        <span data-words>{text}</span>
      </button>
      <span class="visually-hidden" role="status">{text.replace(/ in \d+ s|\d+/g, '')}</span>
      {counter && <span class="signature-count mono" data-count data-holds={whole} role={whole ? undefined : 'alert'}
        title="Seq of the newest event here, of the newest there is; and whether any number in between did not come">
        {counter}
      </span>}
      {latency && <span class="signature-latency mono" data-latency
        title={`From recorded in the database to painted here, of ${latency.count} events in the last minute`}>
        p50 {duration(latency.p50)} · p99 {duration(latency.p99)}
      </span>}
    </div>
  );
}

function Open() {
  const { live, route, steps } = useApp();
  const id = route.current.value.topology;
  const row = live.row.value;
  const open = live.open.value;
  const status = open?.status ?? (row ? row.status : null);
  const known = useRef<{ readonly id: string; readonly name: string } | null>(null); // for when its row is gone
  if (row) known.current = row;
  if (!id) return <div class="bar-open"><h1 class="visually-hidden">topostream</h1></div>;
  return (
    <div class="bar-open">
      <h1 dir="auto">{known.current?.id === id ? known.current.name : id}</h1>
      {open?.part === 'deleted' ? <span class="status" data-status="failed">deleted</span>
        : status && !steps.standing.value && <Status status={status} />}
      <Lifecycle />
      {open?.reason && <span class="bar-reason" title={open.reason}>{open.reason}</span>}
    </div>
  );
}

const next = { auto: 'dark', dark: 'light', light: 'auto' } as const;

function ThemeButton() {
  const { layout } = useApp();
  const theme = layout.theme.value;
  return <button type="button" class="quiet-button" onClick={() => { layout.theme.value = next[theme]; }}
    aria-label={`Theme: ${theme}. Change to ${next[theme]}`}>Theme: {theme}</button>;
}

function Run({ id, children }: { readonly id: string; readonly children: string }) {
  const { commands } = useApp();
  return <button type="button" class="quiet-button" onClick={() => commands.run(id)}>{children}</button>;
}
