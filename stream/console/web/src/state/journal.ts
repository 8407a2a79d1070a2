// The journal of a topology, as GET /topologies/{id}/journal gives it.
import type { Rest } from './rest.ts';

/** `payload` is whatever somebody emitted. */
export interface JournalEvent {
  readonly type: string;
  readonly seq: number;
  readonly ts: string;
  readonly payload: unknown;
}

export interface JournalPage {
  /** The oldest and the newest seq that the journal holds. */
  readonly first: number;
  readonly head: number;
  /** Oldest first; perhaps fewer than were asked for, because a page is also bounded in bytes. */
  readonly events: readonly JournalEvent[];
}

/** Reads at most `limit` events after a seq. Throws a Problem. */
export const readJournal = (rest: Rest, topology: string, after: number, limit: number): Promise<JournalPage> =>
  rest.send('GET', `/topologies/${topology}/journal?after=${after}&limit=${limit}`);
