import { useSignal } from '@preact/signals';
import { useEffect, useId, useLayoutEffect, useMemo, useRef } from 'preact/hooks';
import type { Summary } from 'topostream';
import { isComposing } from '../state/commands.ts';
import { statusWord } from '../state/lifecycle.ts';
import { RowIndex, orders, readSort, statuses, type Order } from '../state/rows.ts';
import '../style/list.css';
import { Ago } from './ago.tsx';
import { useApp } from './context.ts';
import { Status } from './status.tsx';
import { reveal, useVirtual } from './virtual.ts';

const height = 28;
const titles: Record<Order, readonly [word: string, title: string]> = {
  name: ['Name', 'by name'], status: ['Status', 'by status: what wants a look first'],
  version: ['Ver.', 'by version'], in_flight: ['Fl.', 'by mutations in flight'], changed: ['Last', 'by last change'],
};

/** The topologies, live: searched, filtered, sorted. */
export function List() {
  const { live, route } = useApp();
  const { search, status, sort, topology } = route.current.value;
  const index = useMemo(() => new RowIndex({ search, status, sort }), [search, status, sort]);
  const rows = live.rows.value;
  if (rows) index.update(rows);
  const { ref, from, to, onScroll } = useVirtual(index.length, height);
  const active = useSignal<string | null>(topology); // the row that arrows move from
  const isActive = active.value !== null && index.indexOf(active.value) >= 0;
  const base = useId();
  const total = rows?.length ?? 0;

  const move = (by: number): void => {
    const at = active.value ? index.indexOf(active.value) : -1;
    const first = by === 1 ? 0 : index.length - 1; // where arrows begin while no row is active
    const next = Math.max(0, Math.min(index.length - 1, at < 0 && Math.abs(by) === 1 ? first : at + by));
    active.value = index.at(next)?.id ?? null;
    reveal(ref.current, next * height, height);
  };
  const open = (id: string | null): void => {
    if (id && index.indexOf(id) >= 0) route.go({ topology: id, selection: [], at: null });
  };
  const page = Math.max(1, Math.floor((ref.current?.clientHeight ?? 280) / height) - 1);
  const moves: Record<string, number> = {
    ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity,
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    // The key that leads here, pressed again in the empty field, writes no / into the search.
    if (event.key === '/' && event.currentTarget instanceof HTMLInputElement && event.currentTarget.value === '') {
      event.preventDefault();
      return;
    }
    if (isComposing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = moves[event.key];
    const typing = event.target instanceof HTMLInputElement;
    if (typing && (event.key === 'Home' || event.key === 'End')) return;
    if (by !== undefined) move(by);
    else if (event.key === 'Enter') open(isActive ? active.value : index.at(0)?.id ?? null);
    else if (event.key === 'Escape' && typing && search) route.go({ search: '' }, true);
    else return;
    event.preventDefault();
    event.stopPropagation();
  };
  useEffect(() => { active.value = topology; }, [topology]);
  useEffect(() => { // when the first rows were there, for measurements
    if (rows) performance.mark('topostream.rows');
  }, [rows !== null]);
  useLayoutEffect(() => { // what is open is in view when the list comes, or is another
    if (topology && rows) reveal(ref.current, index.indexOf(topology) * height, height);
  }, [topology, rows !== null, index]);

  const shown: preact.JSX.Element[] = [];
  for (let i = from; i < to; i++) {
    const row = index.at(i);
    if (row) shown.push(<Row key={row.id} row={row} at={i} size={index.length} base={base} open={row.id === topology}
      active={row.id === active.value} onOpen={() => open(row.id)} />);
  }
  const { order, reverse } = readSort(sort);
  return (
    <nav class="list" aria-label="Topologies">
      <div class="list-tools">
        <input id="list-search" type="search" placeholder="Search" aria-label="Search topologies" aria-keyshortcuts="/"
          value={search} onKeyDown={onKeyDown} autocomplete="off" spellcheck={false}
          onInput={(event) => route.go({ search: event.currentTarget.value }, true)} />
        <select aria-label="Filter by status" value={status}
          onChange={(event) => route.go({ status: event.currentTarget.value }, true)}>
          <option value="">all {total ? total.toLocaleString('en') : ''}</option>
          {statuses.map((s) => <option key={s} value={s}>{statusWord[s]} {index.counts.get(s) ?? 0}</option>)}
        </select>
      </div>
      <div class="list-head" role="group" aria-label="Sort">
        {orders.map((o) => (
          <button type="button" key={o} class={'list-' + o} title={`Sort ${titles[o][1]}`} aria-pressed={o === order}
            onClick={() => route.go({ sort: o === order && !reverse ? '-' + o : o === 'name' ? '' : o }, true)}>
            {titles[o][0]}{o === order && <span aria-hidden="true">{reverse ? '↑' : '↓'}</span>}
          </button>
        ))}
      </div>
      <div class="list-scroll" ref={ref} onScroll={onScroll}>
        {rows === null && <p class="hint" role="status">
          {live.connection.value.state === 'refused' ? 'The list is not here.' : 'Loading the list…'}
        </p>}
        {rows !== null && !index.length && <p class="hint" role="status">
          {total ? 'No topology fits the search.' : 'There is no topology yet.'}
        </p>}
        {index.length > 0 && <div role="listbox" aria-label="Topologies" tabIndex={0} class="list-rows"
          style={{ height: `${index.length * height}px` }} onKeyDown={onKeyDown}
          aria-activedescendant={isActive ? `${base}-${active.value}` : undefined}>
          {shown}
        </div>}
      </div>
    </nav>
  );
}

/** Not by CSS: its animation would run again whenever the row moves to another place in the list. */
function fade(row: HTMLElement): void {
  const motion = getComputedStyle(document.documentElement).getPropertyValue('--motion');
  const duration = parseFloat(motion) * (motion.endsWith('ms') ? 1 : 1000); // the build writes 120ms as .12s
  if (duration > 0) row.animate([{ backgroundColor: 'var(--hover)', offset: 0 }], { duration });
}

function Row({ row, at, size, base, open, active, onOpen }: {
  readonly row: Summary; readonly at: number; readonly size: number; readonly base: string; readonly open: boolean;
  readonly active: boolean; readonly onOpen: () => void;
}) {
  const { status, version } = row;
  const element = useRef<HTMLDivElement>(null);
  const shown = useRef(false);
  useLayoutEffect(() => { // shows once that it has changed; a row that scrolls in has not
    if (shown.current) fade(element.current!);
    shown.current = true;
  }, [status, version]);
  return (
    <div ref={element} role="option" id={`${base}-${row.id}`} class="list-row" aria-selected={open}
      data-active={active || undefined} data-id={row.id} data-status={status} aria-posinset={at + 1} aria-setsize={size}
      style={{ transform: `translateY(${at * height}px)` }} onClick={onOpen}
      title={row.reason ? `${row.name}: ${row.reason}` : row.name}>
      <span class="list-name" dir="auto">{row.name}</span>
      <span class="list-status"><Status status={status} /></span>
      <span class="list-version mono" title={`version ${version}`}>{version}</span>
      <span class="list-in_flight mono" title={`${row.in_flight} in flight`}>{row.in_flight || ''}</span>
      <span class="list-changed"><Ago ts={row.updated_at} /></span>
    </div>
  );
}
