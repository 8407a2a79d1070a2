// The page's own count of the promise: of the open topology a snapshot at N, then N + 1, N + 2, … and none missing.
// It counts what reaches the page, whatever the stream's own check has found before.
import type { StreamEvent, Violation } from 'topostream';

export interface Count {
  /** The seq that the page has all events up to; null before the first snapshot. */
  readonly have: number | null;
  /** Events that came one by one, since the topology was opened. */
  readonly received: number;
  /** Events that did not come, came twice, or came after a later one, and snapshots older than what was there. */
  readonly missing: number;
  readonly twice: number;
  readonly late: number;
  /** The newest break: the number that had to come, and the one that did. */
  readonly broken: { readonly expected: number | null; readonly got: number | null } | null;
}

export const nothingYet: Count = { have: null, received: 0, missing: 0, twice: 0, late: 0, broken: null };

export const holds = (count: Count): boolean => count.broken === null;

/** Counts one event of the topology that is open. */
export function counted(count: Count, event: StreamEvent): Count {
  const { have } = count;
  if (event.kind === 'snapshot') {
    if (have !== null && event.seq < have) return { ...late(count, have, event.seq), have: event.seq };
    return { ...count, have: event.seq };
  }
  if (event.kind !== 'event') return count;
  const { seq } = event;
  if (have === null) return { ...count, missing: count.missing + 1, broken: { expected: null, got: seq }, have: seq };
  if (seq === have + 1) return { ...count, have: seq, received: count.received + 1 };
  if (seq === have) return { ...count, twice: count.twice + 1, broken: { expected: have + 1, got: seq } };
  if (seq < have) return late(count, have + 1, seq);
  return {
    ...count, have: seq, received: count.received + 1, missing: count.missing + (seq - have - 1),
    broken: { expected: have + 1, got: seq },
  };
}

function late(count: Count, expected: number, got: number): Count {
  return { ...count, late: count.late + 1, broken: { expected, got } };
}

/** Counts a violation that the stream itself has found: such an event never reaches the page. */
export function blamed(count: Count, { kind, expected, got }: Violation): Count {
  const missing = kind === 'hole' && expected !== null && got !== null ? got - expected
    : kind === 'malformed' ? 1 : 0;
  return {
    ...count, missing: count.missing + missing, twice: count.twice + Number(kind === 'double'),
    late: count.late + Number(kind === 'order' || kind === 'back'), broken: { expected, got },
  };
}

const number = new Intl.NumberFormat('en');

/** The part of a seq that counts: above it is the epoch, which a restored or promoted database begins anew. */
export const short = (seq: number): string => {
  const epoch = Math.floor(seq / 2 ** 32);
  return (epoch ? epoch + '·' : '') + number.format(seq % 2 ** 32);
};

/** "412 of 412, none missing". `head` is the newest seq that the page knows of. */
export function sentence(count: Count, head: number): string {
  if (count.have === null) return '';
  const of = `${short(count.have)} of ${short(Math.max(head, count.have))}`;
  if (!count.broken) return `${of}, none missing`;
  const wrong = [
    count.missing && `${number.format(count.missing)} missing`,
    count.twice && `${number.format(count.twice)} twice`,
    count.late && `${number.format(count.late)} late`,
  ].filter(Boolean).join(', ') || 'broken';
  const { expected, got } = count.broken;
  return `${of}, ${wrong} (${got ?? 'nothing'} came for ${expected ?? 'a snapshot'})`;
}
