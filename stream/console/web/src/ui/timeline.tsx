import { useSignal } from '@preact/signals';
import { memo } from 'preact/compat';
import { useEffect, useId, useLayoutEffect, useMemo, useRef } from 'preact/hooks';
import { placeOf, placeOfSeq, type Entry } from '../state/entries.ts';
import '../style/timeline.css';
import { useApp } from './context.ts';
import { Copy } from './copy.tsx';
import { Fill } from './inject.tsx';
import { Json, pretty } from './json.tsx';
import { Scrubber } from './scrub.tsx';
import { rowTime, timeOfDay } from './time.ts';
import { reveal, useVirtual } from './virtual.ts';

const height = 28;
const expansion = 168; // pixels of an open payload: six rows
const slots = 256; // more than are ever drawn

/** What the colour and the mark of a row say. */
function toneOf(entry: Entry): 'failed' | 'degraded' | 'applying' | 'raw' | 'gap' | 'plain' {
  if (entry.kind !== 'event') return entry.kind;
  if (entry.type === 'mutation.failed' || /^to failed/.test(entry.summary)) return 'failed';
  if (entry.type === 'mutation.requeued' || (entry.type === 'status' && /^to degraded/.test(entry.summary))) {
    return 'degraded';
  }
  return entry.type === 'mutation.applying' ? 'applying' : 'plain';
}

/** The events of the open topology, newest below. */
export function Timeline() {
  const { timeline, route, layout } = useApp();
  void timeline.version.value;
  const { topology, filter, selection } = route.current.value;
  const rows = timeline.shown();
  const selected = selection.length === 1 && selection[0]!.kind === 'event' ? Number(selection[0]!.key) : null;
  const opened = useSignal<Entry | null>(null);
  const cursor = useSignal<Entry | null>(null); // the row that arrows move from
  const base = useId();
  const openAt = opened.value ? placeOf(rows, opened.value) : -1;
  const { ref, from, to, onScroll } = useVirtual(
    rows.length + (openAt < 0 ? 0 : expansion / height), height, () => timeline.atEnd.peek());
  const total = rows.length * height + (openAt < 0 ? 0 : expansion);
  const { error } = timeline.filter.value;

  const topOf = (i: number): number => i * height + (openAt >= 0 && i > openAt ? expansion : 0);
  const atEnd = timeline.atEnd.value;
  const last = useRef(0); // where it was scrolled to
  useLayoutEffect(() => { // follows what comes, unless somebody reads
    const element = ref.current;
    if (!element || !timeline.atEnd.peek()) return;
    queueMicrotask(() => { // after the other panes have rendered: the page is laid out once for all of them
      if (!timeline.atEnd.peek()) return;
      element.scrollTop = total;
      last.current = element.scrollTop;
    });
  }, [timeline.version.value, openAt, topology]);
  const scroll = (): void => {
    const element = ref.current!;
    const { scrollTop } = element;
    hold();
    // Rows that came since may have made it longer: only a scroll upwards leaves the end. What the page itself scrolled
    // changes nothing: who reads a payload at the end is not carried away from it.
    if (scrollTop !== last.current) {
      if (scrollTop + element.clientHeight >= element.scrollHeight - height / 2) timeline.atEnd.value = true;
      else if (scrollTop < last.current) timeline.atEnd.value = false;
    }
    last.current = scrollTop;
    onScroll();
    if (element.scrollTop < 10 * height && !timeline.atEnd.peek()) void timeline.older();
  };
  const anchor = useRef<{ readonly entry?: Entry | undefined; readonly at: number; readonly of: string }>(
    { at: 0, of: '' });
  const hold = (): void => { // remembers the row at the top of the pane
    const at = Math.min(Math.floor(ref.current!.scrollTop / height), rows.length - 1);
    anchor.current = { entry: rows[at], at, of: `${topology} ${filter}` };
  };
  useLayoutEffect(() => { // what somebody reads stays where it is when rows come above it, or go
    const element = ref.current;
    const { entry, at, of } = anchor.current;
    if (!element || timeline.atEnd.peek()) {
      anchor.current = { at: 0, of: '' };
      return;
    }
    const now = entry && of === `${topology} ${filter}` ? placeOf(rows, entry) : -1;
    if (now >= 0 && now !== at) {
      element.scrollTop += (now - at) * height;
      last.current = element.scrollTop;
    }
    hold();
  }, [timeline.version.value, topology, filter]);
  // A pane that is not full has nothing to scroll.
  useEffect(() => {
    const element = ref.current;
    if (element && topology && rows.length > 0 && total < element.clientHeight) void timeline.older();
  }, [timeline.version.value, topology]);

  const mutations: string[] = [];
  for (let i = from; i < Math.min(to, rows.length); i++) {
    const { mutation } = rows[i]!;
    if (mutation && timeline.who(mutation) === undefined) mutations.push(mutation);
  }
  useEffect(() => { if (mutations.length) timeline.wantWho(mutations); });
  useLayoutEffect(() => { opened.value = null; }, [topology]); // the payload that is open is not its

  const current = (): Entry | null => selected === null ? cursor.value?.seq === null ? cursor.value : null
    : rows[placeOfSeq(rows, selected)] ?? null;
  const select = (entry: Entry): void => {
    cursor.value = entry;
    const selection = entry.seq === null ? [] : [{ kind: 'event', key: String(entry.seq) } as const];
    route.go({ selection }, selected !== null);
  };
  const toggle = (entry: Entry): void => {
    if (entry.kind === 'gap') return;
    cursor.value = entry;
    const opens = opened.value !== entry;
    opened.value = opens ? entry : null;
    if (!opens) return;
    timeline.atEnd.value = false; // who reads a payload is not carried away from it
    hold();
    requestAnimationFrame(() => { // brings the payload into view, but never scrolls the row itself out of it
      const element = ref.current;
      const top = topOf(rows.indexOf(entry));
      const bottom = top + height + expansion;
      if (element && bottom > element.scrollTop + element.clientHeight) {
        element.scrollTop = Math.min(top, bottom - element.clientHeight);
        last.current = element.scrollTop;
      }
    });
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by: Record<string, number> = {
      ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity,
    };
    const step = by[event.key];
    const here = current();
    if (step !== undefined) {
      const at = here ? placeOf(rows, here) : rows.length;
      const next = Math.max(0, Math.min(rows.length - 1, at + step));
      const entry = rows[next];
      if (entry) {
        select(entry);
        reveal(ref.current, topOf(next), height);
      }
    } else if (event.key === 'Enter' && here) toggle(here);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  const toEnd = (): void => {
    timeline.atEnd.value = true;
    if (ref.current) ref.current.scrollTop = ref.current.scrollHeight;
  };
  const toMinute = (minute: number): void => {
    const at = rows.findIndex((row) => Date.parse(row.ts) >= minute * 60_000);
    if (at < 0 || !ref.current) return;
    timeline.atEnd.value = false;
    ref.current.scrollTop = topOf(at);
  };

  const latest = useRef(toMinute);
  latest.current = toMinute;
  // Memoized: a scroll does not render it anew.
  const histogram = useMemo(() => <Histogram onMinute={(minute) => latest.current(minute)} />, []);
  const at = current();
  const acts = useRef({ select, toggle });
  acts.current = { select, toggle };
  // Each row says how many rows there are. The number is taken now and then, or each event would write all rows anew.
  const told = useRef({ version: -1, size: 0 });
  const version = timeline.sampled.value;
  if (told.current.version !== version || !atEnd) told.current = { version, size: rows.length };
  const shown: preact.JSX.Element[] = [];
  for (let i = Math.max(0, openAt >= 0 && from > openAt ? from - expansion / height : from); i < to; i++) {
    const entry = rows[i];
    if (!entry) break;
    const here = entry === at;
    // By its key the row that scrolls out becomes the one that scrolls in, which is cheaper than a new element.
    shown.push(<Row key={i % slots} entry={entry} top={topOf(i)} id={`${base}-${i}`}
      at={i} size={Math.min(told.current.size, rows.length)} selected={here} open={entry === opened.value}
      who={timeline.who(entry.mutation)} acts={acts} />);
  }
  const active = at ? placeOf(rows, at) : -1;
  return (
    <section class="timeline" aria-label="Timeline">
      <div class="timeline-tools">
        <h2>Timeline</h2>
        <div class="timeline-filter">
          <input id="timeline-filter" type="search" aria-label="Filter events" spellcheck={false} autocomplete="off"
            placeholder="Filter: type:mutation.* seq>400 by:alice is:failed text" value={filter}
            aria-invalid={error !== null} aria-describedby={error ? `${base}-error` : undefined}
            onInput={(event) => route.go({ filter: event.currentTarget.value }, true)} />
          {error && <span id={`${base}-error`} class="problem" role="alert">{error}</span>}
        </div>
        <span class="timeline-count mono" data-shown={rows.length}>
          {filter && !error && `${rows.length.toLocaleString('en')} of `}
          {timeline.all().length.toLocaleString('en')}
        </span>
        <button type="button" class="quiet-button" aria-pressed={timeline.paused.value} aria-keyshortcuts="p"
          onClick={() => { timeline.paused.value = !timeline.paused.value; }}>
          {timeline.paused.value ? `Paused, ${timeline.waiting.value} wait: go on` : 'Pause'}
        </button>
        {!atEnd && <button type="button" class="quiet-button" onClick={toEnd}>
          To the newest
        </button>}
      </div>
      {!layout.small.value && histogram}
      <Scrubber />
      <div class="timeline-scroll" ref={ref} onScroll={scroll}>
        {!topology && <p class="hint">Open a topology to see its events.</p>}
        {topology && !rows.length && <p class="hint" role="status">
          {timeline.problem.value ? `The journal could not be read: ${timeline.problem.value}`
            : timeline.loading.value ? 'Reading the journal…'
              : filter ? 'No event here fits the filter.' : 'No event yet.'}
          {topology && filter && !timeline.complete.value && <button type="button" class="quiet-button"
            onClick={() => void timeline.older()}>Look further back</button>}
        </p>}
        {topology && !rows.length && !filter && !timeline.loading.value && !timeline.problem.value
          && <div class="timeline-fill"><Fill what="events" /></div>}
        {rows.length > 0 && <div class="timeline-rows" style={{ height: `${total}px` }}>
          <div role="listbox" aria-label="Events" tabIndex={0} onKeyDown={onKeyDown}
            aria-activedescendant={active >= from && active < to ? `${base}-${active}` : undefined}>
            {shown}
          </div>
          {openAt >= 0 && <Expanded entry={opened.value!} top={topOf(openAt) + height} />}
        </div>}
      </div>
    </section>
  );
}

const marks = { failed: '✕', degraded: '◆', applying: '△', raw: '≈', gap: '…', plain: '' } as const;

type Act = (entry: Entry) => void;

const Row = memo(({ entry, top, id, at, size, selected, open, who, acts }: {
  readonly entry: Entry; readonly top: number; readonly id: string; readonly at: number; readonly size: number;
  readonly selected: boolean; readonly open: boolean; readonly who: string | null | undefined;
  readonly acts: { readonly current: { readonly select: Act; readonly toggle: Act } };
}) => {
  const tone = toneOf(entry);
  return (
    <div role="option" id={id} class="timeline-row" data-tone={tone} data-seq={entry.seq ?? undefined} data-open={open}
      data-type={entry.type} aria-selected={selected} aria-posinset={at + 1} aria-setsize={Math.max(size, at + 1)}
      style={{ transform: `translateY(${top}px)` }} onClick={() => acts.current.select(entry)}
      onDblClick={() => acts.current.toggle(entry)}>
      <span class="timeline-arrow" aria-hidden="true" onClick={(event) => {
        event.stopPropagation();
        acts.current.toggle(entry);
      }}>
        {entry.kind === 'gap' ? '' : open ? '−' : '+'}
      </span>
      <span class="mono timeline-seq">{entry.seq ?? (entry.kind === 'raw' ? 'raw' : '')}</span>
      <span class="mono timeline-time" title={entry.ts}>{rowTime(entry.ts)}</span>
      <span class="mono timeline-type">
        <span class="timeline-mark" aria-hidden="true">{marks[tone]}</span>{entry.type}
      </span>
      <span class="timeline-summary" title={entry.summary}>{entry.summary}</span>
      <span class="timeline-who">{who ?? ''}</span>
    </div>
  );
});

function Expanded({ entry, top }: { readonly entry: Entry; readonly top: number }) {
  return (
    <div class="timeline-payload" role="region" aria-label={`Payload of ${entry.type} ${entry.seq ?? ''}`} tabIndex={0}
      style={{ transform: `translateY(${top}px)`, height: `${expansion}px` }}>
      <Copy text={() => pretty(entry.payload)} label="Copy the payload" look="quiet-button" />
      <Payload payload={entry.payload} />
    </div>
  );
}

/** A payload: JSON as a tree, anything else as the text that it is. */
function Payload({ payload }: { readonly payload: unknown }) {
  return typeof payload === 'object' && payload !== null ? <div class="json"><Json value={payload} /></div>
    : <pre>{pretty(payload)}</pre>;
}

const hour = 3_600_000; // in milliseconds

/** Events by minute of the last hour, what failed at the foot of each; before the first that was read it is dim. */
function Histogram({ onMinute }: { readonly onMinute: (minute: number) => void }) {
  const { timeline, signature, route, live } = useApp();
  void timeline.sampled.value;
  if (!route.current.value.topology) return null;
  // This runs for each event: the hour moves on only once in ten seconds, to the end of the ten that have begun.
  const { bins, from, since } = timeline.hour(
    Math.ceil((signature.clock.value + live.offset.value) / 10_000) * 10_000);
  const most = Math.max(1, ...bins.map((bin) => bin.count));
  const sum = bins.reduce((n, bin) => n + bin.count, 0);
  const failures = bins.reduce((n, bin) => n + bin.failures, 0);
  const unread = Math.min(1, (since - from) / hour) * 600;
  const label = since === Infinity ? `Last hour: ${timeline.paused.value ? 'paused' : 'not read'}`
    : `${unread ? `Since ${timeOfDay(new Date(since)).slice(0, 5)}` : 'Last hour'}: ${sum} events, ` +
      `${failures} of them failures; at most ${most} in a minute`;
  return (
    <svg class="histogram" viewBox="0 0 600 24" preserveAspectRatio="none" role="img"
      aria-label={label}
      onClick={(event) => {
        const box = event.currentTarget.getBoundingClientRect();
        const bin = bins[Math.floor((event.clientX - box.left) / box.width * 60)];
        if (bin) onMinute(bin.minute);
      }}>
      <title>{label}</title>
      {unread > 0 && <rect class="unread" width={unread} height="24" />}
      {bins.map((bin, i) => bin.count > 0 && (
        <g key={bin.minute}>
          <rect class="bar-all" x={i * 10 + 1} width="8" y={24 - bar(bin.count, most)} height={bar(bin.count, most)} />
          {bin.failures > 0 && <rect class="bar-failed" x={i * 10 + 1} width="8" y={24 - bar(bin.failures, most)}
            height={bar(bin.failures, most)} />}
        </g>
      ))}
    </svg>
  );
}

const bar = (count: number, most: number): number => Math.max(2, count / most * 22);
