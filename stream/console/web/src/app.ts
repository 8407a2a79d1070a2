// The parts of the page, made once and wired here; components get them by useApp().
import { computed, signal, type ReadonlySignal, type Signal } from '@preact/signals';
import type { Graph, GraphChanges } from 'topostream';
import type { Ghost } from './graph/ghost.ts';
import { createCommands, type Commands } from './state/commands.ts';
import { createLive, type Live } from './state/live.ts';
import { createPast, type Past } from './state/past.ts';
import type { Op } from './state/psql.ts';
import { createRest, type Rest } from './state/rest.ts';
import { createRoute, type RouteState } from './state/route.ts';
import { createRevert, type Revert } from './state/revert.ts';
import { createSession, type Session } from './state/session.ts';
import { createSteps, type Steps } from './state/steps.ts';
import type { View } from './state/view.ts';
import { viewOfHead } from './state/view.ts';

export interface App {
  readonly session: Session;
  readonly route: RouteState;
  readonly rest: Rest;
  readonly live: Live;
  readonly commands: Commands;
  /** The topology as of the seq that one looks at: its head, or, while scrubbing, an older one. */
  readonly shown: ReadonlySignal<View | null>;
  /** Set while somebody looks at the past; null shows the head. */
  readonly past: Signal<View | null>;
  /** The journal of the open topology as far as it has been read, and the way to another seq. */
  readonly history: Past;
  /** The steps of the lifecycle. */
  readonly steps: Steps;
  readonly revert: Revert;
  /** Set by editing: takes ops into what is staged, with a note of what they are. Null where nothing can be staged. */
  readonly propose: Signal<((ops: readonly Op[], note: string) => void) | null>;
  /** Set by editing: the ops that undo changes, and, in sentences, what they do not bring back. */
  readonly inverse: Signal<((changes: GraphChanges, graph: Graph) => Inverse) | null>;
  /** Set by editing: the ops that are staged. */
  readonly staged: Signal<readonly Op[]>;
  /** What is staged, or in flight and not applied yet, as the graph draws it. */
  readonly ghosts: Signal<readonly Ghost[]>;
  /** Whether the graph of the open topology may be edited now; otherwise why not. */
  readonly editable: ReadonlySignal<true | string>;
}

export interface Inverse {
  readonly ops: readonly Op[];
  readonly lost: readonly string[];
}

/** Makes the page's parts for a window, or, in tests, for what stands in for one. */
export function createApp(window: Window & typeof globalThis): App {
  const route = createRoute(window);
  const session = createSession(window, route);
  const rest = createRest(window, session);
  const live = createLive(window, session, route);
  const past = signal<View | null>(null);
  const shown = computed(() => past.value ?? viewOfHead(live.open.value));
  const small = window.matchMedia('(max-width: 699px)');
  const narrow = signal(small.matches);
  small.addEventListener('change', () => { narrow.value = small.matches; });
  const editable = computed((): true | string => {
    const status = shown.value?.status;
    if (session.identity.value?.role !== 'admin') return 'this token may only look: an admin’s may edit';
    const at = past.value?.seq ?? route.current.value.at;
    if (at !== null) return `this is seq ${at}, not the present: press Escape to come back`;
    if (narrow.value) return 'on a small screen the console only shows';
    if (status === 'active' || status === 'degraded') return true;
    return status ? `a topology that is ${status} cannot be edited: it must be active or degraded` : 'nothing is open';
  });
  const commands = createCommands();
  const hooks = {
    propose: signal<App['propose']['value']>(null),
    inverse: signal<App['inverse']['value']>(null),
    staged: signal<readonly Op[]>([]),
  };
  const history = createPast({ route, rest, live, past });
  const steps = createSteps({ route, session, rest, live, commands, narrow });
  const revert = createRevert({ route, commands, editable, live, history, ...hooks });
  return {
    route, session, rest, live, commands, shown, past, history, steps, revert, ghosts: signal([]), editable, ...hooks,
  };
}
