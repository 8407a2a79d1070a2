// A decky's state is a word of whoever deploys it. The graph knows a few, and shows any other as it is written.

export type Health = 'healthy' | 'pending' | 'degraded' | 'failed' | 'stopped' | 'other';

/** From the worst to the best. */
export const healths: readonly Health[] = ['failed', 'degraded', 'pending', 'other', 'stopped', 'healthy'];

const words: Record<string, Health> = {
  running: 'healthy', active: 'healthy', healthy: 'healthy', up: 'healthy', ok: 'healthy', ready: 'healthy',
  online: 'healthy',
  pending: 'pending', deploying: 'pending', starting: 'pending', creating: 'pending', applying: 'pending',
  restarting: 'pending', tearing_down: 'pending', stopping: 'pending',
  degraded: 'degraded', unhealthy: 'degraded', warning: 'degraded', unreachable: 'degraded', partial: 'degraded',
  failed: 'failed', error: 'failed', crashed: 'failed', dead: 'failed', down: 'failed',
  stopped: 'stopped', paused: 'stopped', torn_down: 'stopped', exited: 'stopped', offline: 'stopped',
};

export function healthOf(state: string): Health {
  return words[state.trim().toLowerCase()] ?? 'other';
}

export const isUnhealthy = (health: Health): boolean => health === 'failed' || health === 'degraded';
