import { useEffect, useState } from 'preact/hooks';
import { Problem } from '../state/rest.ts';
import '../style/states.css';
import { useApp } from './context.ts';
import { Line } from './copy.tsx';

const insert = `psql "$DATABASE_URL" -c "INSERT INTO topologies (name) VALUES ('demo')"`;

export interface PageState {
  readonly id: string;
  readonly title: string;
  readonly text: string;
  readonly line?: string;
  /** A button that leads out of this state. */
  readonly way?: { readonly title: string; readonly run: () => void };
}

/** What the server says of a topology that does not come. */
interface Answer {
  readonly id: string;
  readonly status: number;
  readonly text: string;
}

/** Why there is no graph to be seen; null if there is one. */
export function usePageState(): PageState | null {
  const { live, route, rest, session } = useApp();
  const { topology } = route.current.value;
  const connection = live.connection.value;
  const rows = live.rows.value;
  const open = live.open.value;
  const [answer, setAnswer] = useState<Answer | null>(null);
  const listed = live.row.value !== undefined;
  const waits = topology !== null && open?.part === 'waiting' && open.seq === null;
  // Where the token does not hold for what is added, a stream with the list just goes on: REST says why nothing comes.
  useEffect(() => {
    if (!waits || rows === null || listed || connection.state !== 'open') return undefined;
    let gone = false;
    rest.send('GET', `/topologies/${topology}`).catch((error: unknown) => {
      if (!gone && error instanceof Problem) setAnswer({ id: topology, status: error.status, text: error.message });
    });
    return () => { gone = true; };
  }, [topology, waits, rows === null, listed, connection.state]);

  const close = { title: 'Back to the list', run: () => {
    route.go({ topology: null, selection: [], at: null });
    live.reconnect();
  } };
  const refused = connection.state === 'refused' ? connection : null;
  if (refused?.status === 401 || session.wanted.value !== null && !open?.graph) {
    return { id: 'signin', title: 'Not signed in', text: 'Give a token to see the topologies.' };
  }
  if (topology === null) {
    if (rows === null) {
      if (refused) return { id: 'refused', title: `Refused (${refused.status})`, text: refused.reason };
      return connection.state === 'waiting'
        ? { id: 'away', title: away(connection.reason), text: `${connection.reason}. It is tried again by itself.` }
        : { id: 'loading', title: 'Loading', text: 'The list of topologies is coming.' };
    }
    return rows.length ? { id: 'nothing', title: 'Nothing is open', text: 'Choose a topology on the left: / searches.' }
      : { id: 'empty', title: 'There is no topology yet', text: 'This line makes one, and it appears here at once:',
        line: insert };
  }
  const status = refused?.status ?? (answer?.id === topology && waits ? answer.status : 0);
  const reason = refused?.reason ?? answer?.text ?? '';
  if (status === 403 || open?.part === 'refused') {
    return { id: 'forbidden', title: 'This token does not hold for it (403)',
      text: open?.problem || reason, way: close };
  }
  if (status === 404 || open?.part === 'deleted' && open.seq === null) {
    return { id: 'unknown', title: 'There is no such topology (404)',
      text: 'Its id is unknown, or it was deleted.', way: close };
  }
  if (open?.part === 'deleted') {
    return { id: 'deleted', title: 'The topology is deleted',
      text: 'Its events stay below for as long as this page is open.', way: close };
  }
  if (refused) return { id: 'refused', title: `Refused (${refused.status})`, text: refused.reason, way: close };
  if (open && open.seq !== null) return null;
  if (open?.part === 'unavailable' || connection.state === 'waiting') {
    const why = open?.problem ?? (connection.state === 'waiting' ? connection.reason : '');
    return { id: 'away', title: away(why), text: `${why}. It is tried again by itself.` };
  }
  return { id: 'loading', title: 'Loading', text: 'The topology’s snapshot is coming.' };
}

const away = (reason: string): string => /database/i.test(reason) ? 'The database is away' : 'The server is away';

/** What stands where the graph would be. */
export function State({ state }: { readonly state: PageState }) {
  return (
    <main class="canvas state" aria-label="Graph" data-state={state.id}>
      <div role="status">
        <h2>{state.title}</h2>
        <p>{state.text}</p>
        {state.line && <Line text={state.line} />}
        {state.way && <button type="button" class="primary" onClick={state.way.run}>{state.way.title}</button>}
      </div>
    </main>
  );
}

/** Over a graph that is not live: the seq as of which it is. */
export function Stale() {
  const { live, signature } = useApp();
  const open = live.open.value;
  const { tone, text } = signature.words.value;
  if (!open || open.seq === null || open.part === 'deleted') return null;
  if (tone === 'calm' || /^live|^catching/.test(text)) return null;
  return <p class="stale" role="status">
    Not live: this is as of seq {open.seq}. It goes on from there, and nothing is left out.
  </p>;
}
