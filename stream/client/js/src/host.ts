// What the client takes from the platform. Tests give their own: a clock that they move, tabs that they freeze.

export interface Host {
  /** Milliseconds that never run backwards. */
  now(): number;
  setTimeout(f: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  /** 0 to 1, for jitter. */
  random(): number;
  fetch: typeof fetch;
  locks: LockManager | undefined;
  channel: ((name: string) => BroadcastChannel) | undefined;
  /** Listens to the window's events, where there is a window. */
  listen(type: string, f: (event: Event) => void): void;
  unlisten(type: string, f: (event: Event) => void): void;
}

const g = globalThis;

/** The browser's or Node's. Looked up at each call, so that importing this does nothing, on a server, too. */
export const platform = (): Host => ({
  now: () => performance.now(),
  setTimeout: (f, ms) => setTimeout(f, ms),
  clearTimeout: (timer) => clearTimeout(timer as number),
  random: () => Math.random(),
  fetch: (...args) => fetch(...args),
  locks: g.navigator?.locks,
  channel: g.BroadcastChannel && ((name) => new BroadcastChannel(name)),
  listen: (type, f) => g.addEventListener?.(type, f),
  unlisten: (type, f) => g.removeEventListener?.(type, f),
});
