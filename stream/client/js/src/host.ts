// What the client takes from the platform. Tests give their own: a clock that they move, tabs that they freeze.

export interface Host {
  /** Milliseconds that never run backwards. */
  now(): number;
  setTimeout(f: () => void, ms: number): unknown;
  clearTimeout(timer: unknown): void;
  /** 0 to 1, for jitter. */
  random(): number;
  fetch: typeof fetch;
  /** The window, where there is one. */
  window: Partial<Pick<Window, 'addEventListener' | 'removeEventListener'>>;
}

/** The browser's or Node's. Looked up when it is used, so that importing this does nothing. */
export const platform: Host = {
  now: () => performance.now(),
  setTimeout: (f, ms) => setTimeout(f, ms),
  clearTimeout: (timer) => clearTimeout(timer as number),
  random: () => Math.random(),
  fetch: (...args) => fetch(...args),
  window: globalThis,
};
