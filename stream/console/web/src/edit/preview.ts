// The graph as it would be after some ops: by the rules, and with the reasons, of the server's pgbus/graph.
import type { Decky, Edge, Graph, Lan } from 'topostream';
import type { Ghost, GhostPhase } from '../graph/ghost.ts';
import {
  formatAddress, gatewayOf, isHost, nextAddress, nextSubnet, overlaps, parseAddress, parseSubnet,
} from './address.ts';
import { unwrapped, type Op, type Payloads } from './ops.ts';

/** An edit breaks a rule of the graph; the message is the server's sentence. */
export class Refused extends Error {}

/** What the ids of rows begin with that are staged and not there yet. */
export const stagedId = 'staged:';

export interface Preview {
  readonly graph: Graph;
  /** For each op why it was left out; null where it was applied. */
  readonly refused: readonly (string | null)[];
}

/** A name as the server's sentences quote it. */
export const quote = (name: string): string => JSON.stringify(name);
/** A JSON object; null if it is none. */
export const asRecord = (value: unknown): Record<string, unknown> | null =>
  typeof value === 'object' && value !== null && !Array.isArray(value) ? value as Record<string, unknown> : null;

/** A graph that ops change. Rows are replaced, never changed. */
class Draft {
  readonly lans = new Map<string, Lan>(); // by id
  readonly deckies = new Map<string, Decky>(); // by uuid
  readonly edges = new Map<string, Edge>(); // by id
  private readonly lanNames = new Map<string, string>();
  private readonly deckyNames = new Map<string, string>();

  constructor(private readonly from: Graph) {
    for (const lan of from.lans) this.putLan(lan);
    for (const decky of from.deckies) this.putDecky(decky);
    for (const edge of from.edges) this.edges.set(edge.id, edge);
  }

  graph(): Graph {
    const rows = <T>(before: readonly T[], now: Map<string, T>): readonly T[] => {
      const all = [...now.values()];
      return all.length === before.length && all.every((row, i) => row === before[i]) ? before : all;
    };
    const { lans, deckies, edges } = this.from;
    return { lans: rows(lans, this.lans), deckies: rows(deckies, this.deckies), edges: rows(edges, this.edges) };
  }

  putLan(lan: Lan): void {
    const before = this.lans.get(lan.id);
    if (before) this.lanNames.delete(before.name);
    this.lans.set(lan.id, lan);
    this.lanNames.set(lan.name, lan.id);
  }

  putDecky(decky: Decky): void {
    this.deckies.set(decky.uuid, decky);
    this.deckyNames.set(decky.name, decky.uuid);
  }

  findLan(name: string): Lan | undefined { return this.lans.get(this.lanNames.get(name) ?? ''); }
  findDecky(name: string): Decky | undefined { return this.deckies.get(this.deckyNames.get(name) ?? ''); }

  lan(name: string): Lan {
    const lan = this.findLan(name);
    if (!lan) throw new Refused(`LAN ${quote(name)} does not exist`);
    return lan;
  }

  decky(name: string): Decky {
    const decky = this.findDecky(name);
    if (!decky) throw new Refused(`decky ${quote(name)} does not exist`);
    return decky;
  }

  edge(decky: Decky, lan: Lan): Edge | undefined {
    for (const edge of this.edges.values()) if (edge.decky_uuid === decky.uuid && edge.lan_id === lan.id) return edge;
    return undefined;
  }

  home(decky: Decky): Edge | undefined {
    for (const edge of this.edges.values()) if (edge.decky_uuid === decky.uuid && !edge.is_bridge) return edge;
    return undefined;
  }

  /** The address that a decky gets in a LAN: wanted, if it can have that, or the next free one. */
  address(lan: Lan, wanted: string | undefined): string {
    const taken = new Map<string, string>();
    for (const edge of this.edges.values()) {
      if (edge.lan_id !== lan.id) continue;
      const decky = this.deckies.get(edge.decky_uuid);
      const ip = edge.ip ?? (edge.is_bridge ? null : decky?.ip ?? null);
      if (ip !== null) taken.set(ip, decky?.name ?? '');
    }
    const subnet = parseSubnet(lan.subnet)!;
    if (wanted === undefined) {
      const next = nextAddress(subnet, new Set(taken.keys()));
      if (!next) throw new Refused(`LAN ${quote(lan.name)} has no free address in ${lan.subnet}`);
      return next;
    }
    const address = parseAddress(wanted)!;
    const ip = formatAddress(address);
    if (!isHost(subnet, address)) {
      throw new Refused(`ip ${ip} is no host's address in ${lan.subnet} of LAN ${quote(lan.name)}`);
    }
    if (address.value === gatewayOf(subnet).value) {
      throw new Refused(`ip ${ip} is kept for the gateway of LAN ${quote(lan.name)}`);
    }
    const owner = taken.get(ip);
    if (owner !== undefined) throw new Refused(`ip ${ip} is taken by decky ${quote(owner)} in LAN ${quote(lan.name)}`);
    return ip;
  }

  removeLan(lan: Lan): void {
    for (const edge of this.edges.values()) if (edge.lan_id === lan.id) this.edges.delete(edge.id);
    this.lans.delete(lan.id);
    this.lanNames.delete(lan.name);
  }

  removeDecky(decky: Decky): void {
    for (const edge of this.edges.values()) if (edge.decky_uuid === decky.uuid) this.edges.delete(edge.id);
    this.deckies.delete(decky.uuid);
    this.deckyNames.delete(decky.name);
  }
}

/** Whether a decky forwards between networks: its configuration says so, or where that is silent its home edge. */
const forwards = (config: Readonly<Record<string, unknown>>, home: Edge | undefined): boolean =>
  Object.hasOwn(config, 'forwards_l3') ? config.forwards_l3 === true : home?.forwards_l3 ?? false;

/** Whether a decky is a gateway: it forwards between its networks. */
export function isGateway(graph: Graph, decky: Decky): boolean {
  const home = graph.edges.find((edge) => edge.decky_uuid === decky.uuid && !edge.is_bridge);
  return forwards(asRecord(decky.decky_config) ?? {}, home);
}

type Makers = { readonly [K in keyof Payloads]: (draft: Draft, payload: Payloads[K], id: string) => void };

const makers: Makers = {
  add_lan: (draft, op, id) => {
    const subnet = op.subnet === undefined ? null : parseSubnet(op.subnet)!;
    const taken = [...draft.lans.values()].sort((a, b) => a.name < b.name ? -1 : 1).map((lan) => {
      const its = parseSubnet(lan.subnet)!;
      if (lan.name === op.name) throw new Refused(`LAN ${quote(op.name)} exists already`);
      if (op.is_dmz && lan.is_dmz) throw new Refused(`LAN ${quote(lan.name)} is the DMZ already: a topology has one`);
      if (subnet && overlaps(its, subnet)) {
        throw new Refused(`subnet ${op.subnet} overlaps ${lan.subnet} of LAN ${quote(lan.name)}`);
      }
      return its;
    });
    const given = op.subnet ?? nextSubnet(taken);
    if (!given) throw new Refused('no /24 of 172.16.0.0/12 is free: give a subnet');
    draft.putLan({
      id, topology_id: '', name: op.name, subnet: given, is_dmz: op.is_dmz ?? false, x: op.x ?? null, y: op.y ?? null,
    });
  },
  remove_lan: (draft, op) => {
    const lan = draft.lan(op.name);
    const living = [...draft.edges.values()].filter((edge) => edge.lan_id === lan.id && !edge.is_bridge)
      .map((edge) => quote(draft.deckies.get(edge.decky_uuid)?.name ?? '')).sort().slice(0, 4);
    if (living.length === 4) living[3] = 'others';
    if (living.length) {
      throw new Refused(`LAN ${quote(lan.name)} is the home of decky ${living.join(', ')}: remove that first`);
    }
    draft.removeLan(lan);
  },
  update_lan: (draft, op) => {
    const lan = draft.lan(op.name);
    const { name = lan.name, x = op.x ?? lan.x, y = op.y ?? lan.y } = op.patch ?? {};
    if (name !== lan.name && draft.findLan(name)) throw new Refused(`LAN ${quote(name)} exists already`);
    draft.putLan({ ...lan, name, x, y });
  },
  add_decky: (draft, op, id) => {
    if (draft.findDecky(op.name)) throw new Refused(`decky ${quote(op.name)} exists already`);
    const lan = draft.lan(op.lan);
    const ip = draft.address(lan, op.ip);
    const forwards_l3 = op.forwards_l3 ?? false;
    draft.putDecky({
      uuid: id, topology_id: '', name: op.name, services: op.services ?? [],
      decky_config: { forwards_l3, ...(op.archetype && { archetype: op.archetype }) },
      ip, state: 'pending', x: op.x ?? null, y: op.y ?? null,
    });
    draft.edges.set(id + ':home', {
      id: id + ':home', topology_id: '', decky_uuid: id, lan_id: lan.id, ip, is_bridge: false, forwards_l3,
    });
  },
  attach_decky: (draft, op, id) => {
    const decky = draft.decky(op.decky);
    const lan = draft.lan(op.lan);
    if (draft.edge(decky, lan)) {
      throw new Refused(`decky ${quote(op.decky)} is attached to LAN ${quote(op.lan)} already`);
    }
    const ip = draft.address(lan, op.ip);
    draft.edges.set(id, {
      id, topology_id: '', decky_uuid: decky.uuid, lan_id: lan.id, ip, is_bridge: true,
      forwards_l3: op.forwards_l3 ?? false,
    });
  },
  detach_decky: (draft, op) => {
    const edge = draft.edge(draft.decky(op.decky), draft.lan(op.lan));
    if (!edge) throw new Refused(`decky ${quote(op.decky)} is not attached to LAN ${quote(op.lan)}`);
    if (!edge.is_bridge) {
      throw new Refused(
        `LAN ${quote(op.lan)} is the home of decky ${quote(op.decky)}: it can only be removed as a whole`);
    }
    draft.edges.delete(edge.id);
  },
  remove_decky: (draft, op) => { draft.removeDecky(draft.decky(op.decky)); },
  update_decky: (draft, op) => {
    const decky = draft.decky(op.decky);
    const config = asRecord(decky.decky_config);
    if (!config) throw new Refused(`decky_config of decky ${quote(op.decky)} is no JSON object: correct it by hand`);
    const home = draft.home(decky);
    const patch = unwrapped(op.patch ?? {});
    const next = { ...config };
    for (const [key, value] of Object.entries(patch)) {
      if (value === null) delete next[key];
      else next[key] = value;
    }
    if (Object.hasOwn(patch, 'forwards_l3')) {
      const after = forwards(next, undefined);
      if (after !== forwards(config, home) && !op.force) {
        throw new Refused(`forwards_l3 of decky ${quote(op.decky)} would become ${after}, which changes what it lets ` +
          'through: say "force": true if that is meant');
      }
      if (home && home.forwards_l3 !== after) draft.edges.set(home.id, { ...home, forwards_l3: after });
    }
    draft.putDecky({
      ...decky, decky_config: op.patch ? next : decky.decky_config, services: op.services ?? decky.services,
      x: op.x ?? decky.x, y: op.y ?? decky.y,
    });
  },
};

/** A graph that ops are applied to, one after another. */
export interface Trial {
  /** Applies an op; or says which rule it breaks, and changes nothing. */
  readonly run: (op: Op) => string | null;
  /** The graph after the ops so far. */
  readonly graph: () => Graph;
}

export function trial(graph: Graph): Trial {
  const draft = new Draft(graph);
  // An id says what an op made, so that it stays while other ops come and go around it.
  const idOf = (op: Op): string => {
    const { name = '', decky = '', lan = '' } = op.payload as { name?: string; decky?: string; lan?: string };
    const kind = op.op === 'add_lan' ? 'lan' : op.op === 'add_decky' ? 'decky' : 'edge';
    let id = stagedId + (kind === 'edge' ? `${kind}:${decky}:${lan}` : `${kind}:${name}`);
    // Taken is the id of a staged row that has been renamed since.
    while (draft.lans.has(id) || draft.deckies.has(id) || draft.edges.has(id)) id += '+';
    return id;
  };
  return {
    run: (op) => {
      try {
        (makers[op.op] as (draft: Draft, payload: Op['payload'], id: string) => void)(draft, op.payload, idOf(op));
        return null;
      } catch (error) {
        if (error instanceof Refused) return error.message;
        throw error;
      }
    },
    graph: () => draft.graph(),
  };
}

/** Applies ops one after another. One that breaks a rule is left out, and the others go on. */
export function preview(graph: Graph, ops: readonly Op[]): Preview {
  if (ops.length === 0) return { graph, refused: [] };
  const on = trial(graph);
  const refused = ops.map(on.run);
  return { graph: on.graph(), refused };
}

/** What the canvas draws dashed for the difference between a graph and what it is about to be. */
export function ghosts(before: Graph, after: Graph, phase: GhostPhase): readonly Ghost[] {
  const list: Ghost[] = [];
  const lanName = new Map([...before.lans, ...after.lans].map((lan) => [lan.id, lan.name]));
  const deckyName = new Map([...before.deckies, ...after.deckies].map((decky) => [decky.uuid, decky.name]));
  const compare = <T extends object>(
    table: 'lans' | 'deckies' | 'edges', key: (row: T) => string, was: readonly T[], is: readonly T[],
    make: (row: T) => Ghost | null,
  ): void => {
    const old = new Map(was.map((row) => [key(row), row]));
    for (const row of is) {
      const known = old.get(key(row));
      old.delete(key(row));
      if (known === row) continue;
      const ghost = known ? { kind: 'changing' as const, table, key: key(row), phase } : make(row);
      if (ghost) list.push(ghost);
    }
    for (const gone of old.keys()) list.push({ kind: 'going', table, key: gone, phase });
  };
  compare('lans', (lan) => lan.id, before.lans, after.lans, ({ name, subnet, is_dmz, x, y }) =>
    ({ kind: 'lan', name, subnet, is_dmz, x, y, phase }));
  const home = new Map(after.edges.filter((edge) => !edge.is_bridge).map((edge) => [edge.decky_uuid, edge.lan_id]));
  compare('deckies', (decky) => decky.uuid, before.deckies, after.deckies, ({ uuid, name, x, y }) =>
    ({ kind: 'decky', name, lan: lanName.get(home.get(uuid) ?? '') ?? '', x, y, phase }));
  compare('edges', (edge) => edge.id, before.edges, after.edges, (edge) => edge.is_bridge
    ? { kind: 'edge', decky: deckyName.get(edge.decky_uuid) ?? '', lan: lanName.get(edge.lan_id) ?? '', phase }
    : null); // a home edge is not drawn: the decky's own ghost stands in its home
  return list;
}
