import { useEffect, useLayoutEffect } from 'preact/hooks';
import type { Pane, Tab } from '../state/layout.ts';
import '../style/shell.css';
import { Bar } from './bar.tsx';
import { Canvas } from './canvas.tsx';
import { useApp } from './context.ts';
import { Editing } from './editing.tsx';
import { Inspector } from './inspector.tsx';
import { Keys } from './keys.tsx';
import { Licences } from './licences.tsx';
import { LifecyclePanels } from './lifecycle.tsx';
import { List } from './list.tsx';
import { Palette } from './palette.tsx';
import { Resizer } from './resizer.tsx';
import { SignIn } from './signin.tsx';
import { Stale, State, usePageState } from './states.tsx';
import { Timeline } from './timeline.tsx';

/** The page: bar above, list left, canvas in the middle, inspector right, timeline below. */
export function Shell() {
  const { commands, layout, route } = useApp();
  useLayoutEffect(() => { // from the first frame on
    const onKey = (event: KeyboardEvent): void => {
      if (document.querySelector('dialog[open]')) return; // its own keys count
      commands.onKey(event);
    };
    window.addEventListener('keydown', onKey);
    return () => window.removeEventListener('keydown', onKey);
  }, [commands]);
  useShellCommands();
  const { panel, topology } = route.current.value;
  useEffect(() => { // who chooses a topology on a small screen wants to see it
    if (topology && layout.small.peek()) layout.tab.value = 'graph';
  }, [topology]);
  return (
    <>
      {layout.small.value ? <Small /> : <Wide />}
      {panel === 'commands' && <Palette />}
      {panel === 'keys' && <Keys />}
      {panel === 'licences' && <Licences />}
      <LifecyclePanels />
      <SignIn />
    </>
  );
}

function Wide() {
  const { layout } = useApp();
  const { open, size } = layout;
  const width = (pane: Pane): string => open[pane].value ? `${size[pane].value}px` : '28px';
  return (
    <div class="shell" style={{
      '--list': width('list'), '--inspector': width('inspector'), '--timeline': width('timeline'),
    }}>
      <Bar />
      {open.list.value && <List />}
      <Middle />
      {open.inspector.value && <Inspector />}
      {open.timeline.value && <Timeline />}
      <nav class="edges" aria-label="Panes">
        {panes.map((pane) => open[pane].value ? <Edge key={pane} pane={pane} /> : <Closed key={pane} pane={pane} />)}
      </nav>
    </div>
  );
}

function Middle() {
  const state = usePageState();
  return state ? <State state={state} /> : <><Canvas /><Editing /><Stale /></>;
}

const names: Record<Pane, string> = { list: 'List', inspector: 'Inspector', timeline: 'Timeline' };
const panes = ['list', 'inspector', 'timeline'] as const;
const keys: Record<Pane, string> = { list: 'l', inspector: 'i', timeline: 't' };

/** A pane that is closed leaves its name, which opens it. */
function Closed({ pane }: { readonly pane: Pane }) {
  const { layout } = useApp();
  return <button type="button" class={`${pane} closed`} aria-expanded="false" aria-keyshortcuts={keys[pane]}
    title={`Open the ${pane} (${keys[pane]})`} onClick={() => { layout.open[pane].value = true; }}>
    {names[pane]}
  </button>;
}

/** What moves a pane's edge, and in its corner what closes it. */
function Edge({ pane }: { readonly pane: Pane }) {
  const { layout } = useApp();
  return <>
    <Resizer pane={pane} />
    <button type="button" class={`collapse collapse-${pane}`} aria-expanded="true" aria-keyshortcuts={keys[pane]}
      aria-label={`Close the ${pane}`} title={`Close the ${pane} (${keys[pane]})`}
      onClick={() => { layout.open[pane].value = false; }}>×</button>
  </>;
}

const tabs: readonly (readonly [Tab, string])[] =
  [['list', 'List'], ['graph', 'Graph'], ['timeline', 'Timeline'], ['inspector', 'Inspector']];

/** Below 700 pixels: one pane at a time. */
function Small() {
  const { layout } = useApp();
  const { tab } = layout;
  const onKeyDown = (event: KeyboardEvent): void => {
    const by = event.key === 'ArrowRight' ? 1 : event.key === 'ArrowLeft' ? -1 : 0;
    if (!by) return;
    const at = tabs.findIndex(([name]) => name === tab.value);
    tab.value = tabs[(at + by + tabs.length) % tabs.length]![0];
    (event.currentTarget as HTMLElement).querySelector<HTMLElement>(`#tab-${tab.value}`)?.focus();
  };
  return (
    <div class="shell small">
      <Bar />
      <nav class="tabs" aria-label="Panes"><div role="tablist" aria-label="Panes" onKeyDown={onKeyDown}>
        {tabs.map(([name, title]) => (
          <button type="button" role="tab" key={name} id={`tab-${name}`} aria-selected={tab.value === name}
            aria-controls="tab-panel" tabIndex={tab.value === name ? 0 : -1} onClick={() => { tab.value = name; }}>
            {title}
          </button>
        ))}
      </div></nav>
      {tab.value !== 'graph' && <main class="visually-hidden">The graph is in its tab.</main>}
      <div role="tabpanel" id="tab-panel" class="tab-panel">
        {tab.value === 'list' && <List />}
        {tab.value === 'graph' && <Middle />}
        {tab.value === 'timeline' && <Timeline />}
        {tab.value === 'inspector' && <Inspector />}
      </div>
    </div>
  );
}

/** What the shell offers by key and by Ctrl-K. */
function useShellCommands(): void {
  const { commands, layout, route, session, live, timeline } = useApp();
  useLayoutEffect(() => {
    const pane = (name: Pane) => (): void => {
      if (layout.small.peek()) layout.tab.value = name;
      else layout.open[name].value = !layout.open[name].peek();
    };
    const focus = (name: Pane, id: string) => (): void => {
      if (layout.small.peek()) layout.tab.value = name;
      layout.open[name].value = true;
      requestAnimationFrame(() => document.getElementById(id)?.focus());
    };
    const panel = (name: string) => (): void => route.go({ panel: name });
    const isOpen = (): true | string => route.current.peek().topology ? true : 'no topology is open';
    return commands.add(
      { id: 'view.commands', title: 'Commands', group: 'View', keys: 'Mod-K', run: panel('commands') },
      { id: 'list.search', title: 'Search topologies', group: 'List', keys: '/', run: focus('list', 'list-search') },
      { id: 'timeline.filter', title: 'Filter events', group: 'Timeline', keys: 'e',
        run: focus('timeline', 'timeline-filter') },
      { id: 'timeline.pause', title: 'Pause the timeline, or go on', group: 'Timeline', keys: 'p', enabled: isOpen,
        run: () => { timeline.paused.value = !timeline.paused.peek(); } },
      { id: 'view.list', title: 'List: open or close', group: 'View', keys: keys.list, run: pane('list') },
      { id: 'view.inspector', title: 'Inspector: open or close', group: 'View', keys: keys.inspector,
        run: pane('inspector') },
      { id: 'view.timeline', title: 'Timeline: open or close', group: 'View', keys: keys.timeline,
        run: pane('timeline') },
      { id: 'view.close', title: 'Close the topology', group: 'Topology', enabled: isOpen,
        run: () => route.go({ topology: null, selection: [], at: null }) },
      { id: 'view.dark', title: 'Theme: dark', group: 'View', run: () => { layout.theme.value = 'dark'; } },
      { id: 'view.light', title: 'Theme: light', group: 'View', run: () => { layout.theme.value = 'light'; } },
      { id: 'view.auto', title: 'Theme: as the system has it', group: 'View',
        run: () => { layout.theme.value = 'auto'; } },
      { id: 'session.renew', title: 'Give another token', group: 'Session', run: panel('signin') },
      { id: 'session.reconnect', title: 'Connect anew, now', group: 'Session', run: () => live.reconnect() },
      { id: 'session.signOut', title: 'Sign out', group: 'Session',
        enabled: () => session.token.peek() ? true : 'no token is here: the application has signed you in',
        run: () => {
          session.signOut();
          window.location.reload(); // nothing stays of what the token showed
        } },
      { id: 'view.keys', title: 'Keys', group: 'View', keys: '?', run: panel('keys') },
      { id: 'view.licences', title: 'Licences', group: 'View', run: panel('licences') },
    );
  }, []);
}
