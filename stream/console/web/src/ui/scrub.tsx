// Looking at the past: a strip along which one drags, and the words that say when one is.
import { useComputed } from '@preact/signals';
import { useEffect, useLayoutEffect, useRef } from 'preact/hooks';
import '../style/scrub.css';
import type { JournalEvent } from '../state/journal.ts';
import { useApp } from './context.ts';
import { useEscape } from './escape.ts';
import { clock } from './time.ts';

const places = 1000;

/** Where along the strip a seq is, from 0 to `places`. */
const placeOf = (seq: number, first: number, head: number): number =>
  head > first ? Math.round(((seq - first) / (head - first)) * places) : places;

/** What events draw: a failure is high and red, a change of status high, a change of the graph low. */
function marks(events: readonly JournalEvent[], first: number, head: number): Record<string, string> {
  const rank: Record<string, number> = {};
  for (const { type, seq } of events) {
    const kind = type === 'mutation.failed' ? 3 : type === 'status' || type === 'deleted' ? 2
      : type === 'graph' || type === 'mutation.applied' ? 1 : 0;
    const place = placeOf(seq, first, head);
    if (kind > (rank[place] ?? 0)) rank[place] = kind;
  }
  const draw = (kind: number, height: number): string => Object.entries(rank)
    .flatMap(([place, of]) => (of === kind ? [`M${place} 16v-${height}`] : [])).join('');
  return { graph: draw(1, 5), status: draw(2, 10), failed: draw(3, 16) };
}

/** The strip above the timeline's rows. */
export function Scrubber() {
  const { history, past, route, commands } = useApp();
  const track = useRef<HTMLDivElement>(null);
  const window = history.window.value;
  const { topology, at } = route.current.value;
  const begun = window !== null && window.first === null;
  useEffect(() => {
    if (begun) void history.prepare().catch(() => undefined); // when one looks, the problem is shown
  }, [topology, begun]);
  useLayoutEffect(() => commands.add(
    {
      id: 'past.back', title: 'One event back', group: 'Timeline', keys: 'Alt-ArrowLeft', enabled: isOpen,
      run: () => void history.step(-1),
    },
    {
      id: 'past.on', title: 'One event on', group: 'Timeline', keys: 'Alt-ArrowRight', enabled: isOpen,
      run: () => void history.step(1),
    },
    {
      id: 'past.now', title: 'Back to now', group: 'Timeline',
      enabled: () => (route.current.value.at === null ? 'this is the present' : true), run: history.now,
    },
  ), [commands]);
  const isOpen = (): true | string => (history.window.value ? true : 'nothing is open');
  const drawn = useComputed(() => {
    const { first, head, events } = history.window.value ?? { first: null, head: 0, events: [] };
    return first === null ? null : marks(events, first, head);
  });
  if (!window) return null;
  const { head } = window;
  const first = window.first ?? head;
  const now = past.value?.seq ?? at ?? head;

  const seekTo = (clientX: number): void => {
    const box = track.current!.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (clientX - box.left) / box.width));
    history.seek(Math.round(first + share * (head - first)));
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const page = Math.max(1, Math.round((head - first) / 20));
    const keys: Record<string, () => void> = {
      ArrowLeft: () => void history.step(-1), ArrowDown: () => void history.step(-1),
      ArrowRight: () => void history.step(1), ArrowUp: () => void history.step(1),
      PageDown: () => history.seek(now - page), PageUp: () => history.seek(now + page),
      Home: () => history.seek(first), End: history.now,
    };
    const run = event.altKey || event.ctrlKey || event.metaKey ? undefined : keys[event.key];
    if (!run) return;
    run();
    event.preventDefault();
    event.stopPropagation();
  };
  return (
    <section class="scrub" aria-label="History">
      {window.first !== null && (
        <span class="end"><span class="words">the journal begins at </span><span class="mono">{first}</span></span>
      )}
      <div
        ref={track} class="track" role="slider" tabIndex={0} aria-label="Look at an older seq"
        aria-valuemin={first} aria-valuemax={head} aria-valuenow={now}
        aria-valuetext={at === null ? `now, seq ${head}` : `as of ${now}`}
        onKeyDown={onKeyDown}
        onPointerDown={(event) => {
          event.currentTarget.setPointerCapture(event.pointerId);
          seekTo(event.clientX);
        }}
        onPointerMove={(event) => {
          if (event.currentTarget.hasPointerCapture(event.pointerId)) seekTo(event.clientX);
        }}
      >
        <svg viewBox={`0 0 ${places} 16`} preserveAspectRatio="none" aria-hidden="true">
          <path class="line" d={`M0 15.5H${places}`} />
          {drawn.value && Object.entries(drawn.value).map(([kind, d]) => <path key={kind} class={kind} d={d} />)}
        </svg>
        <span class="knob" data-past={at !== null} style={{ left: `${placeOf(now, first, head) / (places / 100)}%` }} />
      </div>
      {at === null
        ? <span class="end">now <span class="mono">{head}</span></span>
        : (
          <button type="button" class="button" onClick={history.now}>
            Back to now <span class="mono">{head}</span>
          </button>
        )}
    </section>
  );
}

/** What says when one is, at the top of the graph; nothing while that is now. */
export function AsOf() {
  const { at } = useApp().route.current.value;
  return at === null ? null : <AsOfSeq at={at} />;
}

function AsOfSeq({ at }: { at: number }) {
  const { history, past } = useApp();
  useEscape('Back to now', history.now);
  useEffect(() => {
    document.documentElement.dataset.past = '';
    return () => { delete document.documentElement.dataset.past; };
  }, []);
  const view = past.value;
  const problem = history.problem.value;
  const sentences = [
    history.reading.value && !problem ? `reading the journal back to ${at} …` : '', problem ?? '',
    ...view?.unknown ?? [],
  ].filter(Boolean);
  return (
    <section class="as-of" aria-label="The past">
      <p role="status" data-seq={view?.seq} data-reading={history.reading.value}>
        {view ? <strong>as of <span class="mono">{view.seq}</span>, {view.at && clock(view.at)}</strong>
          : <strong>not <span class="mono">{at}</span></strong>}
        <span>edits are off</span>
        {sentences.map((sentence) => <span key={sentence}>{sentence}</span>)}
      </p>
      <button type="button" class="button" onClick={history.now}>Back to now <kbd>Esc</kbd></button>
    </section>
  );
}
