// What may become of a topology, and the words for it. The server decides; this is what the page offers.
import type { TopologyStatus } from 'topostream';

/** Which status may follow which: the table of the interface, the same as in the database's rules. */
export const transitions: Readonly<Record<TopologyStatus, readonly TopologyStatus[]>> = {
  pending: ['deploying', 'torn_down'],
  deploying: ['active', 'failed', 'degraded', 'tearing_down'],
  active: ['degraded', 'tearing_down'],
  degraded: ['active', 'tearing_down'],
  failed: ['tearing_down'],
  tearing_down: ['torn_down', 'degraded'],
  torn_down: [],
};

/** A status in words, as one says it. */
export const statusWord: Readonly<Record<TopologyStatus, string>> = {
  pending: 'pending', deploying: 'deploying', active: 'active', failed: 'failed', degraded: 'degraded',
  tearing_down: 'tearing down', torn_down: 'torn down',
};

/** A step of the lifecycle that is legal now. */
export interface Step {
  readonly to: TopologyStatus;
  readonly title: string;
  /** What it does, in one sentence. */
  readonly says: string;
  /** Asked for before it is done: it ends something, or somebody else will want to know why. */
  readonly asks: boolean;
}

const titles: Readonly<Record<TopologyStatus, Omit<Step, 'to'>>> = {
  pending: { title: 'Mark pending', says: '', asks: false },
  deploying: { title: 'Deploy', says: 'Asks the deployer to build it.', asks: false },
  active: { title: 'Mark active', says: 'It is built: mutations are applied from now on.', asks: false },
  failed: { title: 'Mark failed', says: 'It could not be built.', asks: true },
  degraded: { title: 'Mark degraded', says: 'Something is wrong with it. Its graph can still be edited.', asks: true },
  tearing_down: { title: 'Tear down', says: 'Ends its decoys. It cannot be deployed again.', asks: true },
  torn_down: { title: 'Mark torn down', says: 'Nothing of it runs any more. This is final.', asks: true },
};

/** The steps that are legal from a status, the usual one first. */
export function stepsFrom(status: TopologyStatus): readonly Step[] {
  return transitions[status].map((to): Step => {
    if (status === 'degraded' && to === 'active') {
      return { to, title: 'Recover', says: 'It is well again: its queue goes on.', asks: false };
    }
    if (status === 'pending' && to === 'torn_down') {
      return { to, ...titles[to], says: 'It is never deployed. This is final.', asks: true };
    }
    return { to, ...titles[to] };
  });
}

/** Why a step cannot be taken now; true if it can. */
export function mayBecome(status: TopologyStatus | null, to: TopologyStatus): true | string {
  if (status === null) return 'nothing is open';
  if (transitions[status].includes(to)) return true;
  const may = transitions[status].map((one) => statusWord[one]).join(' or ') || 'nothing else';
  return `a topology that is ${statusWord[status]} may become ${may}`;
}
