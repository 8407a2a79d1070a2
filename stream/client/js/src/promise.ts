// The promise: of each topology a snapshot at N, then N + 1, N + 2, … on every stream.
import type { Violation } from './types.ts';

/** Where one stream is within one topology. */
export interface Cursor {
  _at: number | null; // newest seq that came, at first what it was asked to resume from
  _from: number | null; // everything after this number has come, up to _at
}

/** Moves a cursor on to an event, and says how that breaks the promise, if it does. */
export function advance(cursor: Cursor, seq: number): Violation['kind'] | undefined {
  const { _at: at, _from: from } = cursor;
  if (seq <= at!) return seq === at || seq > from! ? 'double' : 'order';
  cursor._at = seq;
  if (at !== null && seq === at + 1) return undefined;
  cursor._from = seq - 1;
  return 'hole';
}
