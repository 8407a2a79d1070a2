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
}
