// Takes the steps of the lifecycle for whoever may: makes a topology, changes its status, deletes it.
import { computed, signal, type ReadonlySignal } from '@preact/signals';
import type { Summary, TopologyStatus } from 'topostream';
import type { Command, Commands } from './commands.ts';
import { mayBecome, stepsFrom, type Step } from './lifecycle.ts';
import type { Live } from './live.ts';
import { Problem, type Rest } from './rest.ts';
import type { RouteState } from './route.ts';
import type { Session } from './session.ts';

/** The topology that is open, as far as its lifecycle goes. */
export interface Standing {
  readonly id: string;
  readonly name: string;
  readonly status: TopologyStatus;
  /** Why it is so, as who said it wrote it. */
  readonly reason: string | null;
  /** When it became so; null where the list has not come. */
  readonly since: string | null;
}

/** What POST /topologies takes. */
export interface NewTopology {
  readonly name: string;
  readonly lans?: readonly Record<string, unknown>[];
  readonly deckies?: readonly Record<string, unknown>[];
}

export interface Steps {
  readonly standing: ReadonlySignal<Standing | null>;
  /** Whether this token may take steps, and the present is looked at; otherwise why not. */
  readonly allowed: ReadonlySignal<true | string>;
  /** Whether this token may make a topology; otherwise why not. */
  readonly mayCreate: ReadonlySignal<true | string>;
  /** What the server said to the last step that it refused. */
  readonly problem: ReadonlySignal<Problem | null>;
  /** A request is under way whose effect the stream has not shown yet. */
  readonly busy: ReadonlySignal<boolean>;
  /** Takes a step at once, or opens the dialog that asks for it. */
  readonly start: (step: Step) => void;
  /** Each ends when the server has answered; where it did not do it, `problem` says why. */
  readonly change: (to: TopologyStatus, reason: string | null) => Promise<void>;
  readonly create: (topology: NewTopology) => Promise<void>;
  readonly remove: () => Promise<void>;
  readonly forget: () => void;
}

/** A request that is not answered: with the status that a topology shall have, where it is about one. */
interface UnderWay {
  readonly id?: string;
  readonly to?: TopologyStatus;
}

/** The dialog that asks for a step, as the address names it. */
export const panelOf = (to: TopologyStatus): string => `status-${to}`;

export function createSteps(
  { route, session, rest, live, commands, narrow }: {
    route: RouteState; session: Session; rest: Rest; live: Live; commands: Commands; narrow: ReadonlySignal<boolean>;
  },
): Steps {
  const problem = signal<Problem | null>(null);
  const underWay = signal<UnderWay | null>(null);
  let last: Standing | null = null;
  const keys = ['id', 'name', 'status', 'reason', 'since'] as const;
  const standing = computed((): Standing | null => {
    const { topology } = route.current.value;
    const row = live.row.value;
    const open = live.open.value;
    if (!topology || open?.part === 'deleted') return null;
    const status = open?.status ?? row?.status;
    if (!status) return null;
    const reason = open?.status ? open.reason : row?.reason ?? null;
    const next: Standing = {
      id: topology, name: row?.name ?? topology, status, reason, since: row?.status_changed_at ?? null,
    };
    // The same object while it says the same: whoever shows it is drawn anew for another.
    if (!last || keys.some((key) => last![key] !== next[key])) last = next;
    return last;
  });
  const mayCreate = computed((): true | string => {
    if (session.role.value === 'viewer') return 'this token may only look: an admin’s may do it';
    return narrow.value ? 'on a small screen the console only shows' : true;
  });
  const allowed = computed((): true | string => {
    if (mayCreate.value !== true) return mayCreate.value;
    const { at } = route.current.value;
    return at === null || `this is seq ${at}, not the present: press Escape to come back`;
  });

  const busy = computed(() => {
    if (underWay.value === null) return false;
    const { id, to } = underWay.value;
    return to === undefined || standing.value?.id !== id || standing.value?.status !== to;
  });
  // The answer may come after the event, when one does something else already: it closes only what asked for it.
  const attempt = async (mine: UnderWay, request: () => Promise<unknown>): Promise<void> => {
    if (busy.peek()) return;
    underWay.value = mine;
    problem.value = null;
    try {
      await request();
    } catch (error) {
      if (underWay.peek() !== mine) return;
      problem.value = error instanceof Problem ? error : new Problem(0, 'the page is wrong', String(error));
    } finally {
      if (underWay.peek() === mine) underWay.value = null;
    }
  };
  const change: Steps['change'] = async (to, reason) => {
    const { id } = standing.peek() ?? {};
    if (!id) return;
    await attempt({ id, to }, async () => {
      await rest.send('PATCH', `/topologies/${id}`, { status: to, ...(reason && { reason }) });
      const { topology, panel } = route.current.peek();
      if (topology === id && panel === panelOf(to)) route.go({ panel: '' }, true);
    });
  };
  const start: Steps['start'] = ({ to, asks }) => {
    problem.value = null;
    if (asks) route.go({ panel: panelOf(to) });
    else void change(to, null);
  };

  const step = (id: string, title: string, from: readonly TopologyStatus[], to: TopologyStatus): Command => ({
    id: `topology.${id}`, title, group: 'Topology',
    enabled: () => {
      if (allowed.value !== true) return allowed.value;
      if (busy.value) return 'the step before is not answered yet';
      const status = standing.value?.status ?? null;
      const may = mayBecome(status, to);
      // The step is legal, but this command is not for it from here: the sentence says what is legal.
      return may !== true || from.includes(status!) ? may : mayBecome(status, status!);
    },
    run: () => start(stepsFrom(standing.peek()!.status).find((one) => one.to === to)!),
  });
  const any: readonly TopologyStatus[] = ['pending', 'deploying', 'active', 'degraded', 'tearing_down', 'failed'];
  commands.add(
    {
      id: 'topology.create', title: 'New topology…', group: 'Topology', keys: 'n', enabled: () => mayCreate.value,
      run: () => { problem.value = null; route.go({ panel: 'create' }); },
    },
    step('deploy', 'Deploy', any, 'deploying'),
    step('activate', 'Mark active', ['deploying'], 'active'),
    step('recover', 'Recover from degraded', ['degraded'], 'active'),
    step('degrade', 'Mark degraded…', any, 'degraded'),
    step('fail', 'Mark failed…', any, 'failed'),
    step('teardown', 'Tear down…', any, 'tearing_down'),
    step('torndown', 'Mark torn down…', any, 'torn_down'),
    {
      id: 'topology.delete', title: 'Delete…', group: 'Topology',
      enabled: () => (allowed.value !== true ? allowed.value : standing.value ? true : 'nothing is open'),
      run: () => { problem.value = null; route.go({ panel: 'delete' }); },
    },
    {
      id: 'topology.psql', title: 'Do it in psql', group: 'Topology', keys: 'q',
      run: () => route.go({ panel: route.current.peek().panel === 'inject' ? '' : 'inject' }),
    },
  );
  return {
    standing, allowed, mayCreate, problem, busy, start, change,
    create: (topology) => attempt({}, async () => {
      const { id } = await rest.send<Summary>('POST', '/topologies', topology);
      if (route.current.peek().panel === 'create') route.go({ topology: id, selection: [], at: null, panel: '' });
    }),
    remove: () => attempt({}, async () => {
      const { id } = standing.peek()!;
      await rest.send('DELETE', `/topologies/${id}`);
      if (route.current.peek().topology === id) route.go({ topology: null, selection: [], at: null, panel: '' });
    }),
    forget: () => { problem.value = null; },
  };
}
