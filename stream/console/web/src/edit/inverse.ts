// The ops that lead from one graph to another, for example back to before a change; and what they cannot bring back.
import { applyGraph, type Decky, type Edge, type Graph, type GraphChanges, type Lan } from 'topostream';
import { asRecord, preview } from './preview.ts';
import type { Op } from './ops.ts';

export interface Way {
  readonly ops: readonly Op[];
  /** What of the target no op brings about, in sentences: a decky's uuid, for example. */
  readonly lost: readonly string[];
}

const wordsOf = (value: unknown): string[] | null =>
  Array.isArray(value) && value.every((word) => typeof word === 'string') ? value : null;

/** Whether two JSON values are the same; the order of an object's fields means nothing. */
export function same(a: unknown, b: unknown): boolean {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
  if (Array.isArray(a) !== Array.isArray(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length &&
    keys.every((key) => Object.hasOwn(b, key) && same(fieldsOf(a)[key], fieldsOf(b)[key]));
}
const fieldsOf = (value: object): Record<string, unknown> => value as Record<string, unknown>;

export const keyed = <T>(rows: readonly T[], key: (row: T) => string): Map<string, T> =>
  new Map(rows.map((row) => [key(row), row]));
export const lanId = (lan: Lan): string => lan.id;
export const uuidOf = (decky: Decky): string => decky.uuid;
const edgeId = (edge: Edge): string => edge.id;
const homesOf = (graph: Graph): Map<string, Edge> =>
  new Map(graph.edges.filter((edge) => !edge.is_bridge).map((edge) => [edge.decky_uuid, edge]));

const place = ({ x, y }: { x: number | null; y: number | null }): { x?: number; y?: number } =>
  ({ ...(x !== null && { x }), ...(y !== null && { y }) });
const moved = (was: { x: number | null; y: number | null }, is: { x: number | null; y: number | null }):
  { x?: number; y?: number } =>
  ({ ...(is.x !== null && is.x !== was.x && { x: is.x }), ...(is.y !== null && is.y !== was.y && { y: is.y }) });
const isEmpty = (value: object): boolean => Object.keys(value).length === 0;

/** What changes a configuration into another one; empty if nothing does. */
function patchOf(was: unknown, is: unknown): Record<string, unknown> {
  const [before, after] = [asRecord(was) ?? {}, asRecord(is) ?? {}];
  const patch: Record<string, unknown> = {};
  for (const key of Object.keys(before)) if (!Object.hasOwn(after, key)) patch[key] = null;
  for (const [key, value] of Object.entries(after)) if (!same(before[key], value)) patch[key] = value;
  return patch;
}

/**
 * Gives ops that make `to` out of `from`; a row is the same where its id is. Their order is one in which the rules
 * refuse as little as may be: first what goes, then new names, then what comes.
 */
export function opsBetween(from: Graph, to: Graph): Way {
  const ops: Op[] = [];
  const lansFrom = keyed(from.lans, lanId), lansTo = keyed(to.lans, lanId);
  const deckiesFrom = keyed(from.deckies, uuidOf), deckiesTo = keyed(to.deckies, uuidOf);
  const edgesFrom = keyed(from.edges, edgeId), edgesTo = keyed(to.edges, edgeId);
  const homesFrom = homesOf(from), homesTo = homesOf(to);
  // A decky whose name, home or address there differs can only go and come again.
  const stays = (decky: Decky): boolean => {
    const then = deckiesTo.get(decky.uuid);
    const [was, will] = [homesFrom.get(decky.uuid), homesTo.get(decky.uuid)];
    return then !== undefined && then.name === decky.name && then.ip === decky.ip && was?.lan_id === will?.lan_id &&
      was?.ip === will?.ip;
  };
  const staying = new Set(from.deckies.filter(stays).map(uuidOf));
  const sameEdge = (a: Edge, b: Edge | undefined): boolean => b !== undefined && a.decky_uuid === b.decky_uuid &&
    a.lan_id === b.lan_id && a.ip === b.ip && a.is_bridge === b.is_bridge && a.forwards_l3 === b.forwards_l3;

  for (const decky of from.deckies) {
    if (!staying.has(decky.uuid)) ops.push({ op: 'remove_decky', payload: { decky: decky.name } });
  }
  for (const edge of from.edges) {
    if (!edge.is_bridge || !staying.has(edge.decky_uuid) || !lansTo.has(edge.lan_id)) continue;
    if (sameEdge(edge, edgesTo.get(edge.id))) continue;
    const [decky, lan] = [deckiesFrom.get(edge.decky_uuid), lansFrom.get(edge.lan_id)];
    if (decky && lan) ops.push({ op: 'detach_decky', payload: { decky: decky.name, lan: lan.name } });
  }
  for (const lan of from.lans) if (!lansTo.has(lan.id)) ops.push({ op: 'remove_lan', payload: { name: lan.name } });
  ops.push(...renames(from.lans.filter((lan) => lansTo.has(lan.id)), lansTo));
  for (const lan of to.lans) {
    const was = lansFrom.get(lan.id);
    const { name, subnet, is_dmz } = lan;
    if (!was) ops.push({ op: 'add_lan', payload: { name, subnet, ...(is_dmz && { is_dmz }), ...place(lan) } });
    else if (!isEmpty(moved(was, lan))) ops.push({ op: 'update_lan', payload: { name, ...moved(was, lan) } });
  }
  for (const decky of to.deckies) {
    const home = homesTo.get(decky.uuid);
    const lan = home && lansTo.get(home.lan_id);
    const config = asRecord(decky.decky_config) ?? {};
    const services = wordsOf(decky.services);
    if (!staying.has(decky.uuid)) {
      const forwards_l3 = home?.forwards_l3 === true;
      const archetype = typeof config.archetype === 'string' && config.archetype ? config.archetype : undefined;
      const ip = home?.ip ?? decky.ip;
      ops.push({
        op: 'add_decky',
        payload: {
          name: decky.name, lan: lan?.name ?? '', ...(services?.length && { services }),
          ...(archetype && { archetype }), ...(forwards_l3 && { forwards_l3 }), ...(ip && { ip }), ...place(decky),
        },
      });
      const patch = patchOf({ forwards_l3, ...(archetype && { archetype }) }, config);
      if (!isEmpty(patch)) {
        const force = 'forwards_l3' in patch;
        ops.push({ op: 'update_decky', payload: { decky: decky.name, patch, ...(force && { force }) } });
      }
      continue;
    }
    const was = deckiesFrom.get(decky.uuid)!;
    const patch = patchOf(was.decky_config, decky.decky_config);
    const change = {
      ...(!isEmpty(patch) && { patch }), ...('forwards_l3' in patch && { force: true }),
      ...(services && !same(was.services, services) && { services }), ...moved(was, decky),
    };
    if (!isEmpty(change)) ops.push({ op: 'update_decky', payload: { decky: decky.name, ...change } });
  }
  for (const edge of to.edges) {
    if (!edge.is_bridge) continue;
    const was = edgesFrom.get(edge.id);
    if (was && staying.has(edge.decky_uuid) && lansFrom.has(edge.lan_id) && sameEdge(edge, was)) continue;
    const [decky, lan] = [deckiesTo.get(edge.decky_uuid), lansTo.get(edge.lan_id)];
    const { ip, forwards_l3 } = edge;
    if (!decky || !lan) continue;
    ops.push({
      op: 'attach_decky',
      payload: { decky: decky.name, lan: lan.name, ...(ip && { ip }), ...(forwards_l3 && { forwards_l3 }) },
    });
  }
  const { graph, refused } = preview(from, ops);
  const lost = refused.flatMap((reason) => reason ? [reason] : []);
  return { ops: ops.filter((_, i) => refused[i] === null), lost: [...lost, ...differences(graph, to)] };
}

/** Renames, each once its new name is free. Where names go round in a circle, one LAN gets a name in between. */
function renames(lans: readonly Lan[], to: ReadonlyMap<string, Lan>): Op[] {
  const ops: Op[] = [];
  const names = new Map(lans.map((lan) => [lan.id, lan.name]));
  const taken = new Set(names.values());
  const rename = (id: string, name: string): void => {
    const was = names.get(id)!;
    ops.push({ op: 'update_lan', payload: { name: was, patch: { name } } });
    taken.delete(was);
    taken.add(name);
    names.set(id, name);
  };
  let open = lans.filter((lan) => to.get(lan.id)!.name !== lan.name).map(lanId);
  while (open.length) {
    const free = open.find((id) => !taken.has(to.get(id)!.name));
    if (free === undefined) {
      let name = names.get(open[0]!)! + ' (renaming)';
      while (taken.has(name) || [...to.values()].some((lan) => lan.name === name)) name += '.';
      rename(open[0]!, name);
    } else {
      rename(free, to.get(free)!.name);
      open = open.filter((id) => id !== free);
    }
  }
  return ops;
}

/**
 * What `want` has and `got` has not, in sentences. Rows are the same where their names are; columns in `but` do not
 * count.
 */
export function differences(got: Graph, want: Graph, but: readonly string[] = []): readonly string[] {
  const list: string[] = [];
  const compare = (what: string, is: object | undefined, should: object, columns: readonly string[]): void => {
    if (!is) {
      list.push(`${what} does not come back`);
      return;
    }
    for (const column of columns) {
      const [now, then] = [fieldsOf(is)[column], fieldsOf(should)[column]];
      if (but.includes(column) || same(now, then)) continue;
      const was = column === 'x' || column === 'y' ? 'its place' : column;
      const sentence = `${what}: ${was} does not return${typeof then === 'string' ? ` (${then})` : ''}`;
      if (!list.includes(sentence)) list.push(sentence);
    }
  };
  const lans = keyed(got.lans, (lan) => lan.name);
  const deckies = keyed(got.deckies, (decky) => decky.name);
  for (const lan of want.lans) compare(`LAN ${lan.name}`, lans.get(lan.name), lan, ['subnet', 'is_dmz', 'x', 'y']);
  for (const decky of want.deckies) {
    const columns = ['uuid', 'services', 'decky_config', 'ip', 'state', 'x', 'y'];
    compare(`decky ${decky.name}`, deckies.get(decky.name), decky, columns);
  }
  const named = (graph: Graph): Map<string, Edge> => {
    const names = new Map<string, string>([
      ...graph.lans.map((lan) => [lan.id, lan.name] as const),
      ...graph.deckies.map((decky) => [decky.uuid, decky.name] as const),
    ]);
    return keyed(graph.edges, (edge) => `${names.get(edge.decky_uuid)} in ${names.get(edge.lan_id)}`);
  };
  const edges = named(got);
  for (const [name, edge] of named(want)) compare(name, edges.get(name), edge, ['ip', 'is_bridge', 'forwards_l3']);
  return list;
}

/**
 * Gives ops that undo a change: the `result` of a mutation or the payload of a `graph` event. `current` is the graph
 * now; what others have done since stays, and where it stands in the way, `lost` says so.
 */
export function inverse(changes: GraphChanges, current: Graph): Way {
  const back = applyGraph(current, changes, true);
  const lost: string[] = [];
  // Of a row that has gone since, `before` holds only the columns that changed.
  const whole = <T extends { readonly name?: string }>(rows: readonly T[], what: string): T[] => rows.filter((row) => {
    if (row.name === undefined) lost.push(`a ${what} that was changed is no longer there`);
    return row.name !== undefined;
  });
  const [lans, deckies] = [whole(back.lans, 'LAN'), whole(back.deckies, 'decky')];
  const edges = [...back.edges];
  // A LAN that is somebody's home by now stays.
  const staying = keyed(deckies, uuidOf);
  for (const lan of current.lans) {
    if (lans.some(({ id }) => id === lan.id)) continue;
    const inside = current.edges.filter((edge) => edge.lan_id === lan.id && staying.has(edge.decky_uuid));
    const living = inside.find((edge) => !edge.is_bridge);
    if (!living) continue;
    lost.push(`LAN ${lan.name} stays: it is the home of decky ${staying.get(living.decky_uuid)!.name} by now`);
    lans.push(lan);
    edges.push(...inside);
  }
  const there = new Set([...lans.map(lanId), ...staying.keys()]);
  const way = opsBetween(current, {
    lans, deckies, edges: edges.filter((edge) => there.has(edge.lan_id) && there.has(edge.decky_uuid)),
  });
  return { ops: way.ops, lost: [...lost, ...way.lost] };
}
