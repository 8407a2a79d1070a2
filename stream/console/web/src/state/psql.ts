// The lines that do by hand, in psql, what the page shows: as SQL for psql's prompt, and as a command for a shell.
import type { Decky, Edge, Graph, Lan, TopologyStatus } from 'topostream';
import { stepsFrom } from './lifecycle.ts';
import type { Selection } from './route.ts';

/** An op of a mutation, as POST takes it. */
export interface Op {
  readonly op: string;
  readonly payload: unknown;
}

/** A line that can be typed. */
export interface Line {
  readonly id: string;
  /** What it does, as a heading. */
  readonly title: string;
  /** What happens then; empty where the title says it. */
  readonly says: string;
  /** One statement, with its semicolon. */
  readonly sql: string;
}

/**
 * Writes text as a string constant. A backslash makes it an E'' constant, as libpq's PQescapeLiteral does, so that it
 * means the same whatever standard_conforming_strings says.
 */
export function literal(text: string): string {
  const quoted = `'${text.replaceAll("'", "''").replaceAll('\\', '\\\\')}'`;
  return text.includes('\\') ? `E${quoted}` : quoted;
}

/** Writes a name as a quoted identifier. */
export const identifier = (name: string): string => `"${name.replaceAll('"', '""')}"`;

/** Writes a word of a shell: nothing within single quotes means anything to it (POSIX, 2.2.2). */
export const shellWord = (text: string): string => `'${text.replaceAll("'", `'\\''`)}'`;

/** The whole command for a shell; -X leaves out the user's own psqlrc. */
export const shellLine = (sql: string): string => `psql -X "$DATABASE_URL" -c ${shellWord(sql)}`;

const json = (value: unknown): string => literal(JSON.stringify(value));
const where = (name: string): string => `FROM topologies WHERE name = ${literal(name)}`;

export const createTopology = (name: string): Line => ({
  id: 'create', title: 'Make a topology', says: 'It begins as pending.',
  sql: `INSERT INTO topologies (name) VALUES (${literal(name)});`,
});

export const emit = (name: string, type = 'hello', payload: unknown = { from: 'psql' }): Line => ({
  id: 'emit', title: 'Tell everybody something', says: 'An event of your own, with a seq, in the journal.',
  sql: `SELECT topology_emit(id, ${literal(type)}, ${json(payload)}) ${where(name)};`,
});

const changeStatus = (name: string, to: TopologyStatus, reason: string | null = null): Line => ({
  id: `status-${to}`, title: `Change its status to ${to}`, says: '',
  sql: `UPDATE topologies SET status = ${literal(to)}, reason = ${reason === null ? 'NULL' : literal(reason)} ` +
    `WHERE name = ${literal(name)};`,
});

export const enqueue = (name: string, { op, payload }: Op, title: string, id = `mutation-${op}`): Line => ({
  id, title, says: 'A mutation: the worker applies it, in its turn.',
  sql: `INSERT INTO mutations (topology_id, op, payload) SELECT id, ${literal(op)}, ${json(payload)} ${where(name)};`,
});

const insertLan = (name: string, lan: string, subnet: string): Line => ({
  id: 'insert-lan', title: 'Add a LAN by hand', says: 'A change of the tables is a graph event; no worker is asked.',
  sql: `INSERT INTO lans (topology_id, name, subnet) SELECT id, ${literal(lan)}, ${literal(subnet)} ${where(name)};`,
});

export const notify = (id: string, payload: unknown): Line => ({
  id: 'notify', title: 'Send a raw NOTIFY', says: 'Whoever looks now sees it; it has no seq and is in no journal.',
  sql: `NOTIFY ${identifier(`topology.${id}`)}, ${json(payload)};`,
});

/** A topology as the drawer knows it. */
export interface Subject {
  readonly id: string;
  readonly name: string;
  readonly status: TopologyStatus;
  readonly graph: Graph | null;
}

/** A free name like the ones that are there: lan-3 beside lan-1 and lan-2. */
function freeName(prefix: string, rows: readonly { readonly name: string }[]): string {
  const taken = new Set(rows.map((row) => row.name));
  for (let i = 1; ; i++) if (!taken.has(`${prefix}-${i}`)) return `${prefix}-${i}`;
}

/** A /24 whose address no LAN has. */
function freeSubnet(lans: readonly { readonly subnet: string }[]): string {
  const taken = new Set(lans.map((lan) => lan.subnet));
  for (let i = 77; ; i++) {
    const subnet = `192.168.${i % 256}.0/24`;
    if (!taken.has(subnet) || i > 400) return subnet;
  }
}

/** The lines for what is selected. */
export function linesFor(subject: Subject, selection: Selection): readonly Line[] {
  const { name, graph, id } = subject;
  const lan = (key: string): Lan | undefined => graph?.lans.find((one) => one.id === key);
  const decky = (key: string): Decky | undefined => graph?.deckies.find((one) => one.uuid === key);
  const edge = (key: string): Edge | undefined => graph?.edges.find((one) => one.id === key);
  switch (selection.kind) {
    case 'lan': {
      const one = lan(selection.key);
      if (!one) return [];
      return [
        enqueue(name, { op: 'add_decky', payload: { name: freeName('web', graph!.deckies), lan: one.name } },
          `Add a decky to ${one.name}`),
        enqueue(name, { op: 'update_lan', payload: { name: one.name, patch: { name: `${one.name}-2` } } },
          `Rename ${one.name}`),
        enqueue(name, { op: 'remove_lan', payload: { name: one.name } }, `Remove ${one.name}`),
      ];
    }
    case 'decky': {
      const one = decky(selection.key);
      if (!one) return [];
      return [
        enqueue(name, { op: 'update_decky', payload: { decky: one.name, services: one.services ?? ['ssh'] } },
          `Set the services of ${one.name}`),
        enqueue(name, { op: 'update_decky', payload: { decky: one.name, patch: { banner: 'hello' } } },
          `Merge into the config of ${one.name}`),
        enqueue(name, { op: 'remove_decky', payload: { decky: one.name } }, `Remove ${one.name}`),
        {
          // A row that stays as it is is no event.
          id: 'decky-state', title: `Say by hand how ${one.name} is`, says: 'As a deployer does: it is a graph event.',
          sql: `UPDATE deckies SET state = ${literal(one.state === 'running' ? 'degraded' : 'running')} ` +
            `WHERE uuid = ${literal(one.uuid)};`,
        },
        { ...emit(name, 'decky.note', { decky: one.name }), title: `Tell everybody something about ${one.name}` },
      ].map((line, i) => ({ ...line, id: `${line.id}-${i}` }));
    }
    case 'edge': {
      const one = edge(selection.key);
      const [from, to] = [decky(one?.decky_uuid ?? '')?.name, lan(one?.lan_id ?? '')?.name];
      if (!one || !from || !to) return [];
      const payload = { decky: from, lan: to };
      return [
        enqueue(name, { op: 'detach_decky', payload }, `Detach ${from} from ${to}`),
        enqueue(name, { op: 'attach_decky', payload }, `Attach ${from} to ${to}`),
      ];
    }
    case 'mutation':
      return [{
        id: 'mutation', title: 'Look at this mutation', says: '',
        sql: `SELECT state, reason, requested_by, attempt FROM mutations WHERE id = ${literal(selection.key)};`,
      }];
    default:
      if (!/^\d{1,16}$/.test(selection.key)) return [];
      return [{
        id: 'event', title: 'Look at this event', says: '',
        sql: `SELECT at, type, payload FROM topology_events WHERE topology_id = ${literal(id)} ` +
          `AND seq = ${selection.key};`,
      }];
  }
}

/** The line that fills a list of a topology which has nothing in it yet. */
export function filling(
  subject: Subject, what: 'lans' | 'deckies' | 'services' | 'flight' | 'events', of: string | null = null,
): Line {
  const { name, graph } = subject;
  switch (what) {
    case 'lans': return insertLan(name, freeName('lan', graph?.lans ?? []), freeSubnet(graph?.lans ?? []));
    case 'deckies': {
      const payload = { name: freeName('web', graph?.deckies ?? []), lan: of, services: ['ssh'] };
      return enqueue(name, { op: 'add_decky', payload }, `Add a decky to ${of}`);
    }
    case 'services':
      return enqueue(name, { op: 'update_decky', payload: { decky: of, services: ['ssh', 'http'] } },
        `Give ${of} services`);
    case 'flight':
      return enqueue(name, { op: 'add_lan', payload: { name: freeName('lan', graph?.lans ?? []) } }, 'Ask for a LAN');
    default: return emit(name);
  }
}

/** What is staged, as one mutation. */
export function stagedLine(name: string, ops: readonly Op[]): Line | null {
  if (ops.length === 0) return null;
  const what = ops.length === 1 ? ops[0]! : { op: 'changeset', payload: { ops } };
  return enqueue(name, what, ops.length === 1 ? 'The edit that is staged' : `The ${ops.length} edits that are staged`,
    'staged');
}

/** The lines for a topology as a whole. */
export function linesOf(subject: Subject): readonly Line[] {
  const { name, id, status, graph } = subject;
  const lan = freeName('lan', graph?.lans ?? []);
  return [
    emit(name),
    ...stepsFrom(status).map(({ to, asks }) => changeStatus(name, to, asks ? 'by hand' : null)),
    enqueue(name, { op: 'add_lan', payload: { name: lan } }, 'Ask for a LAN'),
    insertLan(name, freeName('by-hand', graph?.lans ?? []), freeSubnet(graph?.lans ?? [])),
    notify(id, { type: 'note', payload: { text: 'anybody there?' } }),
  ];
}
