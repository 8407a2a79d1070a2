// Edits, and changes that have happened, in sentences.
import type { Graph, GraphChanges } from 'topostream';
import { unwrapped, type Op } from './ops.ts';
import { trial } from './preview.ts';

export interface Line {
  readonly sign: '+' | '−' | '~';
  readonly text: string;
}

const list = (words: unknown): string => Array.isArray(words) && words.length ? words.join(', ') : 'none';
const value = (of: unknown): string => typeof of === 'string' ? of : JSON.stringify(of);
const behind = (parts: readonly (string | false | undefined)[]): string => {
  const said = parts.filter((part) => part);
  return said.length ? ` (${said.join(', ')})` : '';
};

/** Says what an op does to the graph that it finds. */
export function describe({ op, payload }: Op, graph: Graph): Line {
  switch (op) {
    case 'add_lan':
      return { sign: '+', text: `add ${payload.is_dmz ? 'DMZ' : 'LAN'} ${payload.name}` +
        behind([payload.subnet ?? 'the next free subnet']) };
    case 'remove_lan': {
      const lan = graph.lans.find(({ name }) => name === payload.name);
      const bridges = graph.edges.filter((edge) => edge.lan_id === lan?.id && edge.is_bridge).length;
      const detached = bridges > 0 && `${bridges} ${bridges === 1 ? 'decky' : 'deckies'} detached`;
      return { sign: '−', text: `remove LAN ${payload.name}` + behind([lan?.subnet, detached]) };
    }
    case 'update_lan': {
      const name = payload.patch?.name;
      return name !== undefined
        ? { sign: '~', text: `rename LAN ${payload.name} to ${name}` }
        : { sign: '~', text: `move LAN ${payload.name}` };
    }
    case 'add_decky': {
      const what = payload.forwards_l3 ? 'gateway' : 'decky';
      const said = [payload.services?.length ? list(payload.services) : 'no services', payload.ip];
      return { sign: '+', text: `add ${what} ${payload.name} to ${payload.lan}${behind(said)}` };
    }
    case 'attach_decky':
      return { sign: '+', text: `attach ${payload.decky} to ${payload.lan}` +
        behind([payload.ip, payload.forwards_l3 && 'forwards']) };
    case 'detach_decky': return { sign: '−', text: `detach ${payload.decky} from ${payload.lan}` };
    case 'remove_decky': {
      const decky = graph.deckies.find(({ name }) => name === payload.decky);
      const home = graph.edges.find((edge) => edge.decky_uuid === decky?.uuid && !edge.is_bridge);
      const lan = graph.lans.find(({ id }) => id === home?.lan_id);
      const from = lan ? ` from ${lan.name}` : '';
      return { sign: '−', text: `remove decky ${payload.decky}${from}${behind([decky?.ip ?? ''])}` };
    }
    case 'update_decky': return { sign: '~', text: describeUpdate(payload, graph) };
  }
}

/** Says what ops do, each to the graph that those before it have made. */
export function describeAll(ops: readonly Op[], graph: Graph): readonly Line[] {
  const on = trial(graph);
  return ops.map((op) => {
    const line = describe(op, on.graph());
    on.run(op);
    return line;
  });
}

function describeUpdate(payload: Extract<Op, { op: 'update_decky' }>['payload'], graph: Graph): string {
  const decky = graph.deckies.find(({ name }) => name === payload.decky);
  const parts: string[] = [];
  const { forwards_l3, ...patch } = unwrapped(payload.patch ?? {});
  if (forwards_l3 !== undefined) parts.push(forwards_l3 === true ? 'becomes a gateway' : 'is no gateway any more');
  if (payload.services) parts.push(`services ${list(decky?.services)} → ${list(payload.services)}`);
  for (const [key, of] of Object.entries(patch)) parts.push(of === null ? `${key} removed` : `${key} = ${value(of)}`);
  if (payload.x !== undefined || payload.y !== undefined) parts.push('moved');
  return `${payload.decky}: ${parts.join('; ') || 'no change'}`;
}

const columns: Readonly<Record<string, string>> = {
  name: 'name', subnet: 'subnet', is_dmz: 'DMZ', services: 'services', decky_config: 'configuration', ip: 'address',
  state: 'state', forwards_l3: 'forwarding', is_bridge: 'bridge',
};

/** Says what a change was, as a line for each row. `graph` is the one after it, or a later one: it has the names. */
export function describeChanges(changes: GraphChanges, graph: Graph): readonly Line[] {
  const lines: Line[] = [];
  const { before = {} } = changes;
  const names = new Map<string, string>();
  for (const rows of [graph, before, changes]) {
    for (const lan of rows.lans ?? []) if (lan.id && lan.name) names.set(lan.id, lan.name);
    for (const decky of rows.deckies ?? []) if (decky.uuid && decky.name) names.set(decky.uuid, decky.name);
  }
  const nameOf = (id: string | undefined): string => names.get(id ?? '') ?? id ?? '?';
  const row = (what: string, was: object | undefined, is: object): void => {
    if (!was) {
      lines.push({ sign: '+', text: `${what} added` });
      return;
    }
    const old = was as Record<string, unknown>;
    const changed = Object.keys(old).filter((key) => key in columns).map((key) => {
      const now = (is as Record<string, unknown>)[key];
      if (key === 'decky_config') return columns[key]!;
      const text = key === 'services' ? [list(old[key]), list(now)] : [value(old[key]), value(now)];
      return `${columns[key]} ${text[0]} → ${text[1]}`;
    });
    if ('x' in old || 'y' in old) changed.push('moved');
    if (changed.length) lines.push({ sign: '~', text: `${what}: ${changed.join('; ')}` });
  };
  for (const lan of changes.lans ?? []) row(`LAN ${lan.name}`, before.lans?.find(({ id }) => id === lan.id), lan);
  for (const decky of changes.deckies ?? []) {
    row(`decky ${decky.name}`, before.deckies?.find(({ uuid }) => uuid === decky.uuid), decky);
  }
  for (const edge of changes.edges ?? []) {
    const was = before.edges?.find(({ id }) => id === edge.id);
    if (!was && !edge.is_bridge) continue; // it came with its decky
    row(`${nameOf(edge.decky_uuid)} in ${nameOf(edge.lan_id)}`, was, edge);
  }
  for (const { table, id } of changes.removed ?? []) {
    if (table === 'lans') lines.push({ sign: '−', text: `LAN ${nameOf(id)} removed` });
    if (table === 'deckies') lines.push({ sign: '−', text: `decky ${nameOf(id)} removed` });
    const edge = table === 'edges' && before.edges?.find((one) => one.id === id);
    if (edge && edge.is_bridge) {
      lines.push({ sign: '−', text: `${nameOf(edge.decky_uuid)} detached from ${nameOf(edge.lan_id)}` });
    }
  }
  return lines;
}
