/** What the client takes from the platform, by the platform's own names. Tests give another: a clock that they move. */
export interface Host {
  /** Milliseconds that never run backwards. */
  performance: Pick<Performance, 'now'>;
  setTimeout(f: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  /** For jitter. */
  Math: Pick<Math, 'random'>;
  fetch: typeof fetch;
  /** A window's; Node has none. */
  addEventListener?(type: string, listener: () => void): void;
  removeEventListener?(type: string, listener: () => void): void;
  /** For tabs that share. */
  navigator?: { locks?: Pick<LockManager, 'request'> };
  BroadcastChannel?: typeof BroadcastChannel;
}

/** A host with another fetch. A window's methods want to be called on the window. */
export function hostWith(host: Host, fetch: Host['fetch']): Host {
  return {
    performance: host.performance,
    Math: host.Math,
    setTimeout: (f, ms) => host.setTimeout(f, ms),
    clearTimeout: (timer) => host.clearTimeout(timer),
    addEventListener: (type, listener) => host.addEventListener?.(type, listener),
    removeEventListener: (type, listener) => host.removeEventListener?.(type, listener),
    fetch,
  };
}
