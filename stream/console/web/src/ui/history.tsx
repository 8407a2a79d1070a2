import { useEffect, useState } from 'preact/hooks';
import { summaryOf, touches, type Target } from '../graph/history.ts';
import { readJournal, type JournalEvent } from '../state/journal.ts';
import { useApp } from './context.ts';
import { clock } from './time.ts';

/** How many events a page of the journal has, and how many pages are read unasked. */
const page = 500;
const unasked = 4;
/** The newest that are shown. */
const most = 200;

interface Found {
  readonly events: readonly JournalEvent[]; // newest first
  readonly from: number; // all events above this seq have been searched
  readonly first: number; // the journal's oldest
}

/** The events of the journal that are about something, newest first: read backwards, and what comes is added. */
export function History({ target }: { target: Target }) {
  const { live, rest, route, shown } = useApp();
  const topology = route.current.value.topology!;
  const past = shown.value?.at ? shown.value.seq : null;
  const [found, setFound] = useState<Found | null>(null);
  const [problem, setProblem] = useState('');
  const [wanted, setWanted] = useState(unasked);
  const { kind, key, name } = target;

  useEffect(() => {
    const to = { kind, key, name };
    let current = true;
    let state: Found | null = null;
    const set = (next: Found): void => {
      state = next;
      if (current) setFound(next);
    };
    const waiting: JournalEvent[] = []; // live ones that came before the journal was read
    const off = live.onEvent((event) => {
      if (event.kind !== 'event' || event.topology_id !== topology || past !== null) return;
      const { seq, type, ts, payload } = event as JournalEvent;
      const one = { seq, type, ts, payload };
      if (!touches(one, to)) return;
      if (state) set({ ...state, events: merge([one], state.events).slice(0, most) });
      else waiting.push(one);
    });
    const read = async (): Promise<void> => {
      let until = past ?? shown.peek()!.seq;
      let events: readonly JournalEvent[] = waiting;
      for (let pages = 0; pages < wanted && current; pages++) {
        const { first, events: some } = await readDown(until);
        const here = some.filter((event) => event.seq <= until && touches(event, to)).reverse();
        events = merge(merge(waiting, state?.events ?? []), merge(events, here));
        until = Math.max(first - 1, Math.min(until - page, some[0] ? some[0].seq - 1 : until - page));
        set({ events: events.slice(0, most), from: until, first });
        if (until < first || events.length >= most) break;
      }
    };
    /** The page of the journal that ends with a seq; a page may be short where events are large. */
    const readDown = async (until: number): Promise<{ first: number; events: JournalEvent[] }> => {
      const after = Math.max(0, until - page);
      let answer = await readJournal(rest, topology, after, page);
      const events = [...answer.events];
      while (current && events.length && events.at(-1)!.seq < until && answer.events.length) {
        answer = await readJournal(rest, topology, events.at(-1)!.seq, page);
        events.push(...answer.events);
      }
      return { first: answer.first, events };
    };
    setFound(null);
    setProblem('');
    read().catch((error: Error) => current && setProblem(error.message));
    return () => {
      current = false;
      off();
    };
  }, [live, rest, topology, past, kind, key, name, wanted]);

  const more = found && found.from >= found.first && found.events.length < most;
  return (
    <section>
      <h3>History</h3>
      {problem && <p class="inspector-note" role="alert">{problem}</p>}
      {!found && !problem && <p class="none" role="status">reading the journal …</p>}
      {found && (
        <ol class="history">
          {found.events.map((event) => (
            <li key={event.seq} data-seq={event.seq}>
              <button type="button" class="go" onClick={() => {
                route.go({ selection: [{ kind: 'event', key: String(event.seq) }] });
              }}><code>{event.seq}</code></button>
              <time dateTime={event.ts} title={event.ts}>{clock(event.ts)}</time>
              <span class="type">{event.type}</span>
              <span class="summary">{summaryOf(event)}</span>
            </li>
          ))}
          {!found.events.length && <li class="none">nothing</li>}
        </ol>
      )}
      {found && !more && found.from < found.first && (
        <p class="none">The journal begins with {found.first}.</p>
      )}
      {more && (
        <button type="button" onClick={() => setWanted(wanted * 4)}>Look further back than {found.from + 1}</button>
      )}
    </section>
  );
}

/** Two lists, newest first, as one, each event once. */
function merge(a: readonly JournalEvent[], b: readonly JournalEvent[]): JournalEvent[] {
  const bySeq = new Map([...b, ...a].map((event) => [event.seq, event]));
  return [...bySeq.values()].sort((x, y) => y.seq - x.seq);
}
