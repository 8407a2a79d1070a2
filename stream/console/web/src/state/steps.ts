// Takes the steps of the lifecycle for whoever may: makes a topology, changes its status, deletes it.
import { batch, computed, effect, signal, type ReadonlySignal } from '@preact/signals';
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
  /** What the server said to the last step that it refused; null where it was one of another topology or form. */
  readonly problem: ReadonlySignal<Problem | null>;
  /** A request is under way, and the stream has not shown yet that what it asks for is so. */
  readonly busy: ReadonlySignal<boolean>;
  /** Takes a step at once, or opens the dialog that asks for it. */
  readonly start: (step: Step) => void;
  /** Each ends with the server's answer. Where it did not do it, `problem` says why; none is sent while `busy`. */
  readonly change: (to: TopologyStatus, reason: string | null) => Promise<void>;
  readonly create: (topology: NewTopology) => Promise<void>;
  readonly remove: () => Promise<void>;
  /** Forgets the problem, and waits no more for what the dialog that is open has sent. */
  readonly forget: () => void;
}

/** A request that is not answered. */
interface UnderWay {
  /** Whether what it asks for is so already. */
  readonly done: () => boolean;
  /** The dialog that asked for it; empty if none did. */
  readonly panel: string;
}

/** The dialog that asks for a step, as the address names it. */
export const panelOf = (to: TopologyStatus): string => `status-${to}`;

export function createSteps(
  { route, session, rest, live, commands, narrow }: {
    route: RouteState; session: Session; rest: Rest; live: Live; commands: Commands; narrow: ReadonlySignal<boolean>;
  },
): Steps {
  const refused = signal<{ readonly of: string | null; readonly problem: Problem } | null>(null);
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
  const problem = computed(() => {
    const of = route.current.value.panel === 'create' ? null : standing.value?.id;
    return refused.value && refused.value.of === of ? refused.value.problem : null;
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

  const busy = computed(() => underWay.value !== null);
  effect(() => { if (underWay.value?.done()) underWay.value = null; });
  /** Sends a request, and tells it whether anybody still waits for its answer; `of` is the topology that it changes. */
  const attempt = async (
    of: string | null, done: () => boolean, request: (awaited: () => boolean) => Promise<unknown>,
  ): Promise<void> => {
    if (busy.peek()) return;
    const mine: UnderWay = { done, panel: route.current.peek().panel };
    const awaited = (): boolean => underWay.peek() === mine;
    batch(() => {
      underWay.value = mine;
      refused.value = null;
    });
    try {
      await request(awaited);
    } catch (error) {
      if (!awaited()) return;
      const problem = error instanceof Problem ? error : new Problem(0, 'the page is wrong', String(error));
      refused.value = { of, problem };
    } finally {
      if (awaited()) underWay.value = null;
    }
  };
  // An answer closes only what asked for it: it may come after the event, when one does something else already.
  const change: Steps['change'] = async (to, reason) => {
    const { id } = standing.peek() ?? {};
    if (!id) return;
    await attempt(id, () => standing.value?.id === id && standing.value.status === to, async (awaited) => {
      await rest.send('PATCH', `/topologies/${id}`, { status: to, ...(reason && { reason }) });
      const { topology, panel } = route.current.peek();
      if (awaited() && topology === id && panel === panelOf(to)) route.go({ panel: '' }, true);
    });
  };
  const start: Steps['start'] = ({ to, asks }) => {
    refused.value = null;
    if (asks) route.go({ panel: panelOf(to) });
    else void change(to, null);
  };

  const step = (id: string, title: string, from: readonly TopologyStatus[], to: TopologyStatus): Command => ({
    id: `topology.${id}`, title, group: 'Topology',
    enabled: () => {
      if (allowed.value !== true) return allowed.value;
      if (busy.value) return 'the request before is not answered yet';
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
      run: () => { refused.value = null; route.go({ panel: 'create' }); },
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
      run: () => { refused.value = null; route.go({ panel: 'delete' }); },
    },
    {
      id: 'topology.psql', title: 'Do it in psql', group: 'Topology', keys: 'q',
      run: () => route.go({ panel: route.current.peek().panel === 'inject' ? '' : 'inject' }),
    },
  );
  return {
    standing, allowed, mayCreate, problem, busy, start, change,
    create: (topology) => attempt(null, () => false, async (awaited) => {
      const { id } = await rest.send<Summary>('POST', '/topologies', topology);
      if (!awaited() || route.current.peek().panel !== 'create') return;
      route.go({ topology: id, selection: [], at: null, panel: '' });
    }),
    remove: async () => {
      const { id } = standing.peek()!;
      const gone = (): boolean => live.open.value?.id === id && live.open.value.part === 'deleted';
      await attempt(id, gone, async () => {
        await rest.send('DELETE', `/topologies/${id}`);
        const { topology, panel } = route.current.peek();
        if (topology !== id) return;
        route.go({ topology: null, selection: [], at: null, ...(panel === 'delete' && { panel: '' }) });
      });
    },
    forget: () => {
      refused.value = null;
      const { panel } = route.current.peek();
      if (panel !== '' && underWay.peek()?.panel === panel) underWay.value = null;
    },
  };
}
