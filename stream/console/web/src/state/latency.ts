// How long events are under way: from their recording in the database to this screen.

/** The samples of the last minute. */
export class Latency {
  #at: number[] = []; // when it was painted, in milliseconds of any one clock
  #took: number[] = [];
  readonly #span: number;

  constructor(span = 60_000) { this.#span = span; }

  add(at: number, took: number): void {
    this.#at.push(at);
    this.#took.push(Math.max(0, took)); // two clocks differ by more than the way takes
    if (this.#at.length > 20_000) this.#drop(10_000);
  }

  /** Gives what half and what 99 of a hundred took at most; null if nothing came in the last minute. */
  at(now: number): { readonly p50: number; readonly p99: number; readonly count: number } | null {
    let old = 0;
    while (old < this.#at.length && this.#at[old]! <= now - this.#span) old++;
    this.#drop(old);
    if (!this.#took.length) return null;
    const sorted = Float64Array.from(this.#took).sort();
    const rank = (p: number): number => sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * p) - 1)]!;
    return { p50: rank(0.5), p99: rank(0.99), count: sorted.length };
  }

  #drop(n: number): void {
    if (n) {
      this.#at.splice(0, n);
      this.#took.splice(0, n);
    }
  }
}

/** "34 ms", "1.2 s", "3 min". */
export function duration(ms: number): string {
  if (ms < 0.5) return '<1 ms';
  if (ms < 999.5) return `${Math.round(ms)} ms`;
  if (ms < 9_950) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 59_500) return `${Math.round(ms / 1000)} s`;
  return `${Math.round(ms / 60_000)} min`;
}

/** "now", "12s", "4m", "3h", "2d": as narrow as it can be. */
export function ago(ms: number): string {
  const s = Math.floor(ms / 1000);
  if (s < 2) return 'now';
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m`;
  if (s < 86_400) return `${Math.floor(s / 3600)}h`;
  return `${Math.floor(s / 86_400)}d`;
}
