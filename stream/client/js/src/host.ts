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
  return new Proxy(host, {
    get: (_, key: keyof Host) => {
      const value = host[key] as { bind?: (to: Host) => unknown } | undefined;
      return key === 'fetch' ? fetch : value?.bind ? value.bind(host) : value;
    },
  });
}
