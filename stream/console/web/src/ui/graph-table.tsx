import { memo } from 'preact/compat';
import { useEffect, useState } from 'preact/hooks';
import type { Decky, Lan } from 'topostream';
import { healthOf } from '../graph/health.ts';
import { homesOf, servicesOf } from '../graph/scene.ts';
import type { Selection } from '../state/route.ts';
import type { View } from '../state/view.ts';
import { useApp } from './context.ts';
import { HealthMark } from './health-mark.tsx';
import { Fill } from './inject.tsx';

/** Milliseconds between renderings, at least: nobody reads faster, and a screen reader would never reach the end. */
const period = 250;

/** The graph as a table: the same LANs, deckies, states and attachments as the drawing. */
export function GraphTable() {
  const app = useApp();
  const view = useSampled(app.shown);
  const { selection } = app.route.current.value;
  if (!view) return <p class="canvas-empty" role="status">Waiting for the graph …</p>;
  const { lans, deckies, edges } = view.graph;
  const lanById = new Map(lans.map((lan) => [lan.id, lan]));
  const homes = homesOf(edges);
  const members = new Map<string, number>();
  const bridges = new Map<string, string[]>();
  const forwarding = new Set<string>();
  for (const edge of edges) {
    if (edge.forwards_l3) forwarding.add(edge.decky_uuid);
    if (homes.get(edge.decky_uuid) === edge) {
      members.set(edge.lan_id, (members.get(edge.lan_id) ?? 0) + 1);
    } else {
      const name = lanById.get(edge.lan_id)?.name ?? edge.lan_id;
      bridges.set(edge.decky_uuid, [...bridges.get(edge.decky_uuid) ?? [], name]);
    }
  }
  const isSelected = (kind: Selection['kind'], key: string): boolean =>
    selection.some((s) => s.kind === kind && s.key === key);
  const toggle = (kind: Selection['kind'], key: string, add: boolean): void => {
    const { selection } = app.route.current.peek(); // a row may have been drawn with an older one
    const others = selection.filter((s) => s.kind !== kind || s.key !== key);
    app.route.go({ selection: !add ? [{ kind, key }]
      : others.length < selection.length ? others : [...selection, { kind, key }] });
  };
  const sorted = <T extends { name: string }>(rows: readonly T[]): T[] =>
    rows.toSorted((a, b) => a.name.localeCompare(b.name, 'en', { numeric: true }));
  return (
    <div class="graph-table" tabIndex={0} role="region" aria-label="The graph as a table">
      <table>
        <caption>{lans.length} LANs</caption>
        <thead><tr><th>LAN</th><th>Subnet</th><th>Kind</th><th>Deckies</th></tr></thead>
        <tbody>
          {sorted(lans).map((lan) => (
            <LanRow
              key={lan.id} lan={lan} members={members.get(lan.id) ?? 0} selected={isSelected('lan', lan.id)}
              select={toggle}
            />
          ))}
        </tbody>
      </table>
      {!lans.length && <Fill what="lans" />}
      <table>
        <caption>{deckies.length} deckies</caption>
        <thead>
          <tr><th>Decky</th><th>State</th><th>LAN</th><th>Address</th><th>Services</th><th>Bridged into</th></tr>
        </thead>
        <tbody>
          {sorted(deckies).map((decky) => (
            <DeckyRow
              key={decky.uuid} decky={decky} lan={lanById.get(homes.get(decky.uuid)?.lan_id ?? '')?.name ?? ''}
              bridges={(bridges.get(decky.uuid) ?? []).sort().join(', ')} gateway={forwarding.has(decky.uuid)}
              selected={isSelected('decky', decky.uuid)} select={toggle}
            />
          ))}
        </tbody>
      </table>
      {!deckies.length && lans[0] && <Fill what="deckies" of={lans[0].name} />}
    </div>
  );
}

type Select = (kind: Selection['kind'], key: string, add: boolean) => void;
const sameBut = <T extends object>(a: T, b: T): boolean => // select is a new function each time, and does the same
  (Object.keys(a) as (keyof T)[]).every((key) => key === 'select' || a[key] === b[key]);

interface LanRowProps { lan: Lan; members: number; selected: boolean; select: Select }
const LanRow = memo(({ lan, members, selected, select }: LanRowProps) => (
  <tr data-lan={lan.id} data-selected={selected || undefined}>
    <th scope="row">
      <button
        type="button" aria-pressed={selected}
        onClick={(event) => select('lan', lan.id, event.shiftKey || event.ctrlKey || event.metaKey)}
      >{lan.name}</button>
    </th>
    <td><code>{lan.subnet}</code></td>
    <td>{lan.is_dmz ? 'DMZ' : 'LAN'}</td>
    <td>{members}</td>
  </tr>
), sameBut);

interface DeckyRowProps {
  decky: Decky; lan: string; bridges: string; gateway: boolean; selected: boolean; select: Select;
}
const DeckyRow = memo(({ decky, lan, bridges, gateway, selected, select }: DeckyRowProps) => (
  <tr data-decky={decky.uuid} data-selected={selected || undefined}>
    <th scope="row">
      <button
        type="button" aria-pressed={selected}
        onClick={(event) => select('decky', decky.uuid, event.shiftKey || event.ctrlKey || event.metaKey)}
      >{decky.name}</button>
      {gateway && <span class="tag">gateway</span>}
    </th>
    <td><HealthMark health={healthOf(decky.state)} /> {decky.state}</td>
    <td>{lan || '—'}</td>
    <td><code>{decky.ip ?? '—'}</code></td>
    <td>{servicesOf(decky.services).join(', ')}</td>
    <td>{bridges}</td>
  </tr>
), sameBut);

/** A signal's value, at most every `period`; the last one always comes. */
function useSampled(source: { readonly value: View | null; subscribe(fn: (v: View | null) => void): () => void }) {
  const [value, setValue] = useState(source.value);
  useEffect(() => {
    let timer = 0;
    let last = -Infinity;
    const take = (): void => {
      timer = 0;
      last = performance.now();
      setValue(latest);
    };
    let latest: View | null = null;
    const off = source.subscribe((view) => {
      latest = view;
      timer ||= window.setTimeout(take, Math.max(0, last + period - performance.now()));
    });
    return () => {
      off();
      clearTimeout(timer);
    };
  }, [source]);
  return value;
}
