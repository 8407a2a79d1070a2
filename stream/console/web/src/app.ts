// The parts of the page, made once and wired here; components get them by useApp().
import { computed, signal, type ReadonlySignal, type Signal } from '@preact/signals';
import { createEdit } from './edit/edit.ts';
import { createEditing, type Editing } from './edit/editing.ts';
import type { Op } from './edit/ops.ts';
import type { Ghost } from './graph/ghost.ts';
import type { Intents } from './graph/intents.ts';
import { createCommands, type Commands } from './state/commands.ts';
import { createFailures, type Failures } from './state/failures.ts';
import { createFrames, type Frames } from './state/frames.ts';
import { createLayout, type Layout } from './state/layout.ts';
import { createLive, type Live } from './state/live.ts';
import { createPast, type Past } from './state/past.ts';
import { createRest, type Rest } from './state/rest.ts';
import { createRoute, type RouteState } from './state/route.ts';
import { createRevert, type Revert } from './state/revert.ts';
import { createSession, type Session } from './state/session.ts';
import { createSignature, type Signature } from './state/signature.ts';
import { createSteps, type Steps } from './state/steps.ts';
import { createTimeline, type Timeline } from './state/timeline.ts';
import { viewOfHead, type View } from './state/view.ts';

export interface App {
  readonly frames: Frames;
  readonly session: Session;
  readonly route: RouteState;
  readonly rest: Rest;
  readonly live: Live;
  readonly commands: Commands;
  readonly layout: Layout;
  readonly signature: Signature;
  readonly timeline: Timeline;
  /** The topology as of the seq that one looks at: its head, or, while scrubbing, an older one. */
  readonly shown: ReadonlySignal<View | null>;
  /** Set while somebody looks at the past; null shows the head. */
  readonly past: Signal<View | null>;
  /** The journal of the open topology as far as it has been read, and the way to another seq. */
  readonly history: Past;
  /** The steps of the lifecycle. */
  readonly steps: Steps;
  readonly revert: Revert;
  /** What is staged, or in flight and not applied yet, as the graph draws it. */
  readonly ghosts: Signal<readonly Ghost[]>;
  /** What the canvas tells editing. */
  readonly intents: Intents;
  /** Mutations that failed and that nobody has dismissed yet. */
  readonly failures: Failures;
  /** Whether the graph of the open topology may be edited now; otherwise why not. */
  readonly editable: ReadonlySignal<true | string>;
  readonly editing: Editing;
  /** The ops that are staged. */
  readonly staged: ReadonlySignal<readonly Op[]>;
}

/** Makes the page's parts for a window, or, in tests, for what stands in for one. */
export function createApp(window: Window & typeof globalThis): App {
  const route = createRoute(window);
  const session = createSession(window, route);
  const rest = createRest(window, session);
  const frames = createFrames(window);
  const live = createLive(window, session, route, frames);
  const layout = createLayout(window);
  const timeline = createTimeline(window, live, route, rest, frames);
  const signature = createSignature(window, live, session, route, frames);
  const past = signal<View | null>(null);
  const shown = computed(() => past.value ?? viewOfHead(live.open.value));
  const editable = computed((): true | string => {
    const status = shown.value?.status;
    if (session.role.value === 'viewer') return 'this token may only look: an admin’s may edit';
    const at = past.value?.seq ?? route.current.value.at;
    if (at !== null) return `this is seq ${at}, not the present: press Escape to come back`;
    if (layout.small.value) return 'on a small screen the console only shows';
    if (status === 'active' || status === 'degraded') return true;
    return status ? `a topology that is ${status} cannot be edited: it must be active or degraded` : 'nothing is open';
  });
  let refused: string | null = null; // why the newest key was refused; its notice goes when a key is not
  const commands = createCommands((reason) => {
    if (reason !== null || edit.notice.peek() === refused) edit.notice.value = reason;
    refused = reason;
  });
  const ghosts = signal<readonly Ghost[]>([]);
  const edit = createEdit(window, { route, rest, live, shown, past, ghosts, editable });
  const editing = createEditing(window, { route, commands, edit, editable });
  const history = createPast({ route, rest, live, past });
  const steps = createSteps({ route, session, rest, live, commands, narrow: layout.small });
  const revert = createRevert({ route, commands, editable, live, history, propose: edit.propose });
  return {
    frames, route, session, rest, live, layout, signature, timeline, commands, shown, past, history, steps, revert,
    ghosts, intents: editing.intents, editing, editable, failures: createFailures(live.onEvent),
    staged: computed(() => edit.staged.value.ops),
  };
}
