import { useComputed } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import { useEffect, useMemo, useState } from 'preact/hooks';
import type { Decky, Edge, Lan, Mutation } from 'topostream';
import { rowChangesOf, type RowChange } from '../graph/history.ts';
import { healthOf, healths, type Health } from '../graph/health.ts';
import { homesOf, servicesOf } from '../graph/scene.ts';
import { readJournal, type JournalEvent } from '../state/journal.ts';
import type { Rest } from '../state/rest.ts';
import type { Selection } from '../state/route.ts';
import type { View } from '../state/view.ts';
import { useApp } from './context.ts';
import { Copy } from './copy.tsx';
import { HealthMark } from './health-mark.tsx';
import { History } from './history.tsx';
import { FoldedFill } from './inject.tsx';
import { pretty } from './json.tsx';
import { keyText } from './keytext.ts';
import { LifecycleSection } from './lifecycle.tsx';
import { RevertButton } from './revert.tsx';
import { Tree } from './tree.tsx';
import '../style/inspector.css';

/** What is selected, with all that is known of it; without a selection, the topology. */
export function Inspector() {
  const { route } = useApp();
  const { topology, selection } = route.current.value;
  return (
    <aside class="inspector" aria-label="Inspector" tabIndex={0}>
      {topology === null ? <p class="inspector-note">Nothing is open.</p>
        : selection.length === 0 ? <TopologyPane />
          : selection.length === 1 ? <One key={selection[0]!.kind + selection[0]!.key} selected={selection[0]!} />
            : <Several selection={selection} />}
      <RevertButton />
    </aside>
  );
}

function One({ selected: { kind, key } }: { selected: Selection }) {
  switch (kind) {
    case 'lan': return <LanPane id={key} />;
    case 'decky': return <DeckyPane uuid={key} />;
    case 'edge': return <EdgePane id={key} />;
    case 'mutation': return <MutationPane id={key} />;
    case 'event': return <EventPane seq={Number(key)} />;
  }
}

// ---------------------------------------------------------- parts

function Head({ kind, title, children }: { kind: string; title: string; children?: ComponentChildren }) {
  const { commands, route } = useApp();
  return (
    <header class="inspector-head">
      <span class="kind">{kind}</span>
      <h2 dir="auto">{title}</h2>
      {children}
      {route.current.value.selection.length > 0 && (
        <span class="inspector-acts">
          {/^(LAN|DMZ|decky|gateway|edge|bridge)/.test(kind) && route.current.value.view === 'graph' && (
            <button type="button" onClick={() => commands.run('graph.centre')}>Centre</button>
          )}
          <button type="button" aria-label="Clear the selection"
            onClick={() => route.go({ selection: [] })}>Clear</button>
        </span>
      )}
    </header>
  );
}

type FieldsOf = readonly (readonly [string, ComponentChildren])[];
function Fields({ of: fields }: { of: FieldsOf }) {
  return (
    <dl class="fields">
      {fields.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value === null || value === '' ? <span class="none">none</span> : value}</dd>
        </div>
      ))}
    </dl>
  );
}

function Id({ value }: { value: string }) {
  return <span class="id"><code>{value}</code> <Copy text={() => value} label={`Copy ${value}`} /></span>;
}

function Section({ title, children }: { title: string; children: ComponentChildren }) {
  return <section><h3>{title}</h3>{children}</section>;
}

/** Goes to something that is named here. */
function Go({ to, children }: { to: Selection; children: ComponentChildren }) {
  const { route } = useApp();
  return <button type="button" class="go" onClick={() => route.go({ selection: [to] })}>{children}</button>;
}

const State = ({ state }: { state: string }) => <><HealthMark health={healthOf(state)} /> {state}</>;
const place = ({ x, y }: { x: number | null; y: number | null }): ComponentChildren =>
  x === null || y === null ? <span class="none">laid out by the page</span> : <code>{x}, {y}</code>;
const yes = (value: boolean): string => value ? 'yes' : 'no';

function Gone({ kind, id }: { kind: Selection['kind']; id: string }) {
  const { shown } = useApp();
  return (
    <>
      <Head kind={kind} title="Not there" />
      <p class="inspector-note">
        {shown.value ? `There is no such ${kind} at seq ${shown.value.seq}: it was removed, or is not there yet.`
          : 'Waiting for the graph …'}
      </p>
      {shown.value && <History target={{ kind: kind as 'lan', key: id, name: '' }} />}
    </>
  );
}

// ---------------------------------------------------------- panes

function LanPane({ id }: { id: string }) {
  const { shown } = useApp();
  const lan = useComputed(() => shown.value?.graph.lans.find((row) => row.id === id)).value;
  const graph = useComputed(() => shown.value?.graph ?? null).value;
  if (!lan || !graph) return <Gone kind="lan" id={id} />;
  return (
    <>
      <Head kind={lan.is_dmz ? 'DMZ' : 'LAN'} title={lan.name} />
      <Fields of={[
        ['Subnet', <code>{lan.subnet}</code>], ['DMZ', yes(lan.is_dmz)], ['Place', place(lan)],
        ['Id', <Id value={id} />],
      ]} />
      <LanMembers lan={lan} deckies={graph.deckies} edges={graph.edges} />
      <History target={{ kind: 'lan', key: id, name: lan.name }} />
    </>
  );
}

function LanMembers({ lan, deckies, edges }: { lan: Lan; deckies: readonly Decky[]; edges: readonly Edge[] }) {
  const homes = homesOf(edges);
  const byUuid = new Map(deckies.map((decky) => [decky.uuid, decky]));
  const here = edges.filter((edge) => edge.lan_id === lan.id && byUuid.has(edge.decky_uuid))
    .map((edge) => ({ edge, decky: byUuid.get(edge.decky_uuid)!, home: homes.get(edge.decky_uuid) === edge }))
    .sort((a, b) => a.decky.name.localeCompare(b.decky.name, 'en', { numeric: true }));
  const list = (rows: typeof here) => (
    <ul class="links">
      {rows.map(({ edge, decky }) => (
        <li key={edge.id}>
          <HealthMark health={healthOf(decky.state)} />
          <Go to={{ kind: 'decky', key: decky.uuid }}>{decky.name}</Go>
          <code>{edge.ip ?? decky.ip ?? ''}</code>
        </li>
      ))}
    </ul>
  );
  const members = here.filter(({ home }) => home);
  const bridged = here.filter(({ home }) => !home);
  return (
    <>
      <Section title={`${members.length} at home here`}>
        {members.length ? list(members) : <FoldedFill what="deckies" of={lan.name} />}
      </Section>
      {bridged.length > 0 && <Section title={`${bridged.length} bridged into it`}>{list(bridged)}</Section>}
    </>
  );
}

function DeckyPane({ uuid }: { uuid: string }) {
  const { shown } = useApp();
  const decky = useComputed(() => shown.value?.graph.deckies.find((row) => row.uuid === uuid)).value;
  const lans = useComputed(() => shown.value?.graph.lans).value;
  const edges = useComputed(() => shown.value?.graph.edges).value;
  if (!decky || !lans || !edges) return <Gone kind="decky" id={uuid} />;
  const home = homesOf(edges).get(uuid);
  const own = edges.filter((edge) => edge.decky_uuid === uuid);
  const lanOf = (edge: Edge): Lan | undefined => lans.find((lan) => lan.id === edge.lan_id);
  const services = servicesOf(decky.services);
  const gateway = own.some((edge) => edge.forwards_l3);
  return (
    <>
      <Head kind={gateway ? 'gateway' : 'decky'} title={decky.name} />
      <Fields of={[
        ['State', <State state={decky.state} />], ['Address', decky.ip && <code>{decky.ip}</code>],
        ['Home', home && lanOf(home) ? <Go to={{ kind: 'lan', key: home.lan_id }}>{lanOf(home)!.name}</Go> : null],
        ['Forwards', yes(gateway)], ['Place', place(decky)], ['Uuid', <Id value={uuid} />],
      ]} />
      <Section title="Services">
        {services.length ? <ul class="services">{services.map((s) => <li key={s}>{s}</li>)}</ul>
          : <><p class="none">none</p><FoldedFill what="services" of={decky.name} /></>}
      </Section>
      <Section title="Attachments">
        <ul class="links">
          {own.map((edge) => (
            <li key={edge.id}>
              <Go to={{ kind: 'edge', key: edge.id }}>{edge === home ? 'home' : 'bridge'}</Go>
              <Go to={{ kind: 'lan', key: edge.lan_id }}>{lanOf(edge)?.name ?? edge.lan_id}</Go>
              <code>{edge.ip ?? ''}</code>
              {edge.forwards_l3 && <span class="tag">forwards</span>}
            </li>
          ))}
        </ul>
      </Section>
      <Section title="Config"><Tree value={decky.decky_config} name="decky_config" /></Section>
      <History target={{ kind: 'decky', key: uuid, name: decky.name }} />
    </>
  );
}

function EdgePane({ id }: { id: string }) {
  const { shown } = useApp();
  const edge = useComputed(() => shown.value?.graph.edges.find((row) => row.id === id)).value;
  const graph = useComputed(() => shown.value?.graph).value;
  if (!edge || !graph) return <Gone kind="edge" id={id} />;
  const decky = graph.deckies.find((row) => row.uuid === edge.decky_uuid);
  const lan = graph.lans.find((row) => row.id === edge.lan_id);
  return (
    <>
      <Head kind={edge.is_bridge ? 'bridge' : 'edge'} title={`${decky?.name ?? '?'} in ${lan?.name ?? '?'}`} />
      <Fields of={[
        ['Decky', <Go to={{ kind: 'decky', key: edge.decky_uuid }}>{decky?.name ?? edge.decky_uuid}</Go>],
        ['LAN', <Go to={{ kind: 'lan', key: edge.lan_id }}>{lan?.name ?? edge.lan_id}</Go>],
        ['Address', edge.ip && <code>{edge.ip}</code>], ['Bridge', edge.is_bridge ? 'yes' : 'no: it is the home'],
        ['Forwards', yes(edge.forwards_l3)], ['Id', <Id value={id} />],
      ]} />
      <History target={{ kind: 'edge', key: id, name: '' }} />
    </>
  );
}

interface MutationRow extends Omit<Mutation, 'state'> {
  readonly state: string;
}

/** Looks for a mutation in the newest thousand: there is no route that gives one by its id. */
async function findMutation(rest: Rest, topology: string, id: string): Promise<MutationRow | null> {
  const most = 200; // of a page, as the server has it
  for (let page = 0, before = ''; page < 5; page++) {
    const rows = await rest.send<MutationRow[]>('GET', `/topologies/${topology}/mutations?limit=${most}${before}`);
    const found = rows.find((m) => m.id === id);
    if (found || rows.length < most) return found ?? null;
    before = `&before=${rows.at(-1)!.position}`;
  }
  return null;
}

function MutationPane({ id }: { id: string }) {
  const { rest, route, shown, failures } = useApp();
  const topology = route.current.value.topology;
  const here = useComputed(() => shown.value?.in_flight.find((m) => m.id === id)).value;
  const inFlight = !!here;
  const [row, setRow] = useState<MutationRow | null>(null);
  const [problem, setProblem] = useState('');
  useEffect(() => { // again when it is no longer in flight: only then has it a result
    let current = true;
    findMutation(rest, topology!, id)
      .then((found) => current && setRow(found))
      .catch((error: Error) => current && setProblem(error.message));
    return () => { current = false; };
  }, [rest, topology, id, inFlight]);
  const mutation: MutationRow | null = here ?? row;
  const reason = mutation?.reason ?? failures.all.value.find((failure) => failure.mutation_id === id)?.reason;
  return (
    <>
      <Head kind="mutation" title={mutation?.op ?? 'Mutation'} />
      {problem && <p class="inspector-note" role="alert">{problem}</p>}
      {mutation && (
        <Fields of={[
          ['State', <span class="mutation-state" data-state={mutation.state}>{mutation.state}</span>],
          ...(reason ? [['Reason', <>{reason} <Copy text={() => reason} label="Copy the reason" /></>] as const] : []),
          ['Position', mutation.position === undefined ? null : <code>{mutation.position}</code>],
          ['Asked by', mutation.requested_by ?? null], ['Asked at', mutation.requested_at ?? null],
          ['Ended at', mutation.applied_at ?? null], ['Id', <Id value={id} />],
        ]} />
      )}
      {mutation && <Section title="Payload"><Tree value={mutation.payload} name="payload" /></Section>}
      <History target={{ kind: 'mutation', key: id, name: '' }} />
    </>
  );
}

function EventPane({ seq }: { seq: number }) {
  const { rest, route, timeline } = useApp();
  const topology = route.current.value.topology;
  void timeline.version.value;
  const [event, setEvent] = useState<JournalEvent | null>(null);
  const [problem, setProblem] = useState('');
  useEffect(() => {
    let current = true;
    readJournal(rest, topology!, seq - 1, 1).then(({ first, events }) => {
      if (!current) return;
      const found = events.find((e) => e.seq === seq);
      if (found) setEvent(found);
      else setProblem(seq < first ? `The journal begins with ${first}: ${seq} is no longer in it.`
        : `There is no event ${seq}.`);
    }).catch((error: Error) => current && setProblem(error.message));
    return () => { current = false; };
  }, [rest, topology, seq]);
  const payload = event?.payload as { mutation_id?: string } | null | undefined;
  const changes = event ? rowChangesOf(event) : [];
  const who = timeline.who(payload?.mutation_id ?? null);
  useEffect(() => { if (payload?.mutation_id && who === undefined) timeline.wantWho([payload.mutation_id]); });
  return (
    <div data-event={seq}>
      <Head kind={`event ${seq}`} title={event?.type ?? '…'} />
      {problem && <p class="inspector-note" role="alert">{problem}</p>}
      {event && (
        <>
          <Fields of={[
            ['Seq', <code>{seq}</code>], ['Time', <code>{event.ts}</code>],
            ...(payload?.mutation_id
              ? [['Mutation', <Go to={{ kind: 'mutation', key: payload.mutation_id }}>
                <code>{payload.mutation_id.slice(0, 8)}</code></Go>] as const,
              ['Asked by',
                who === undefined ? '…' : who === null ? 'not known here' : who || 'nobody says'] as const] : []),
          ]} />
          {changes.length > 0 && <Section title="What it changed"><Changes changes={changes} /></Section>}
          <Section title="Payload">
            <Tree value={event.payload} name="payload" />
            <Copy text={() => pretty(event.payload)} label="Copy the payload" />
          </Section>
        </>
      )}
    </div>
  );
}

function Changes({ changes }: { changes: readonly RowChange[] }) {
  const { shown } = useApp();
  const graph = shown.value?.graph;
  const nameOf = ({ kind, key, name }: RowChange): string => {
    if (kind !== 'edge') return name || (kind === 'lan' ? graph?.lans.find((row) => row.id === key)?.name
      : graph?.deckies.find((row) => row.uuid === key)?.name) || key;
    const edge = graph?.edges.find((row) => row.id === key);
    return edge ? `${graph?.deckies.find((row) => row.uuid === edge.decky_uuid)?.name} in `
      + `${graph?.lans.find((row) => row.id === edge.lan_id)?.name}` : key;
  };
  const first = changes.slice(0, 100);
  return (
    <ul class="changes">
      {first.map((change) => (
        <li key={change.kind + change.key} data-what={change.what}>
          <span class="what">{change.what} {change.kind}</span>
          <Go to={{ kind: change.kind, key: change.key }}>{nameOf(change)}</Go>
          {change.fields.map(({ field, from, to }) => (
            <div key={field} class="change">
              <span>{field}</span>
              <del>{JSON.stringify(from) ?? 'nothing'}</del>
              <ins>{JSON.stringify(to) ?? 'nothing'}</ins>
            </div>
          ))}
        </li>
      ))}
      {changes.length > first.length && <li>and {changes.length - first.length} more rows</li>}
    </ul>
  );
}

function TopologyPane() {
  const { live, shown, route } = useApp();
  const id = route.current.value.topology!;
  const row = live.row.value;
  const view = shown.value;
  const refused = live.connection.value.state === 'refused' || live.open.value?.part === 'refused';
  return (
    <>
      <Head kind="topology" title={row?.name ?? (refused ? 'Not shown' : '…')} />
      <LifecycleSection />
      {view ? <TopologyFields view={view} id={id} />
        : <p class="inspector-note">{refused ? 'The server shows nothing of it.' : 'Waiting for the graph …'}</p>}
    </>
  );
}

function TopologyFields({ view, id }: { view: View; id: string }) {
  const { graph, in_flight, in_flight_total } = view;
  const counts = useMemo(() => {
    const counts = new Map<Health, number>();
    for (const { state } of graph.deckies) counts.set(healthOf(state), (counts.get(healthOf(state)) ?? 0) + 1);
    return counts;
  }, [graph.deckies]);
  const bridges = useMemo(() => graph.edges.filter((edge) => edge.is_bridge).length, [graph.edges]);
  return (
    <>
      <Fields of={[
        ['Version', <code>{view.version}</code>], [view.at ? 'As of seq' : 'Seq', <code>{view.seq}</code>],
        ['LANs', graph.lans.length], ['Deckies', graph.deckies.length], ['Bridges', bridges], ['Id', <Id value={id} />],
      ]} />
      {graph.deckies.length > 0 && (
        <Section title="Deckies by state">
          <ul class="links">
            {healths.filter((h) => counts.has(h)).map((h) => (
              <li key={h}><HealthMark health={h} /> <span>{h}</span> <code>{counts.get(h)}</code></li>
            ))}
          </ul>
        </Section>
      )}
      <Section title={in_flight_total ? `${in_flight_total} in flight` : 'In flight'}>
        {in_flight_total === 0 ? <><p class="none">nothing</p><FoldedFill what="flight" /></> : (
          <ul class="links">
            {in_flight.slice(0, 50).map((m) => (
              <li key={m.id}>
                <Go to={{ kind: 'mutation', key: m.id }}>{m.op}</Go>
                <span class="mutation-state" data-state={m.state}>{m.state}</span>
                <span class="by">{m.requested_by ?? ''}</span>
              </li>
            ))}
            {in_flight_total > 50 && <li>and {in_flight_total - 50} more</li>}
          </ul>
        )}
      </Section>
    </>
  );
}

function Several({ selection }: { selection: readonly Selection[] }) {
  const { commands } = useApp();
  const counts = new Map<string, number>();
  for (const { kind } of selection) counts.set(kind, (counts.get(kind) ?? 0) + 1);
  const plural: Record<string, string> = {
    lan: 'LANs', decky: 'deckies', edge: 'edges', mutation: 'mutations', event: 'events',
  };
  const words = [...counts].map(([kind, n]) => `${n} ${n === 1 ? (kind === 'lan' ? 'LAN' : kind) : plural[kind]}`);
  const actions = commands.all.value.filter(({ group, id }) => group === 'Edit' || id === 'graph.dim');
  return (
    <>
      <Head kind="selection" title={`${selection.length} selected`} />
      <p class="inspector-note">{words.join(', ')}</p>
      <Section title="Actions">
        <ul class="acts">
          {actions.map((command) => {
            const can = command.enabled?.() ?? true;
            return (
              <li key={command.id}>
                <button
                  type="button" aria-disabled={can !== true} title={can === true ? undefined : can}
                  onClick={() => commands.run(command.id)}
                >{command.title}</button>
                {command.keys && <kbd>{keyText(command.keys)}</kbd>}
              </li>
            );
          })}
        </ul>
      </Section>
      <SelectedList selection={selection} />
    </>
  );
}

function SelectedList({ selection }: { selection: readonly Selection[] }) {
  const { shown } = useApp();
  const graph = shown.value?.graph;
  const lans = new Map(graph?.lans.map((lan) => [lan.id, lan.name]));
  const deckies = new Map(graph?.deckies.map((decky) => [decky.uuid, decky.name]));
  return (
    <Section title="What">
      <ul class="links">
        {selection.slice(0, 100).map(({ kind, key }) => (
          <li key={kind + key}>
            <span class="kind">{kind}</span>
            <Go to={{ kind, key }}>{(kind === 'lan' ? lans : deckies).get(key) ?? key}</Go>
          </li>
        ))}
        {selection.length > 100 && <li>and {selection.length - 100} more</li>}
      </ul>
    </Section>
  );
}

