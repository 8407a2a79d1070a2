// Random graphs and ops for the tests of editing.
import fc from 'fast-check';
import type { Graph } from 'topostream';
import type { Op } from '../src/edit/ops.ts';
import { preview } from '../src/edit/preview.ts';

export const empty: Graph = { lans: [], deckies: [], edges: [] };

const lan = fc.constantFrom('office', 'plant', 'dmz', 'lab');
const decky = fc.constantFrom('web', 'db', 'mail', 'plc', 'cam');
const words = fc.uniqueArray(fc.constantFrom('ssh', 'http', 'smb', 'ftp'), { maxLength: 3 });
const coordinate = fc.integer({ min: -500, max: 500 });
const flag = fc.boolean();
const subnet = fc.constantFrom('10.0.0.0/24', '10.0.1.0/24', '10.0.0.0/29', '10.0.0.0/16', 'fd00::/64');
const ip = fc.constantFrom('10.0.0.2', '10.0.0.5', '10.0.1.9', '172.16.0.7', 'fd00::7');
const patch = fc.record({
  forwards_l3: flag, archetype: fc.constantFrom('linux-server', 'camera'), banner: fc.constantFrom('a', 'b', null),
}, { requiredKeys: [] });

export const op: fc.Arbitrary<Op> = fc.oneof(
  fc.record({
    op: fc.constant('add_lan' as const),
    payload: fc.record({ name: lan, subnet, is_dmz: flag, x: coordinate, y: coordinate },
      { requiredKeys: ['name', 'x', 'y'] }),
  }),
  fc.record({ op: fc.constant('remove_lan' as const), payload: fc.record({ name: lan }) }),
  fc.record({
    op: fc.constant('update_lan' as const),
    payload: fc.oneof(
      fc.record({ name: lan, patch: fc.record({ name: lan, x: coordinate }, { requiredKeys: [] }) }),
      fc.record({ name: lan, x: coordinate, y: coordinate }),
    ),
  }),
  fc.record({
    op: fc.constant('add_decky' as const),
    payload: fc.record(
      {
        name: decky, lan, services: words, archetype: fc.constant('camera'), forwards_l3: flag, ip,
        x: coordinate, y: coordinate,
      },
      { requiredKeys: ['name', 'lan', 'x', 'y'] }),
  }),
  fc.record({
    op: fc.constant('attach_decky' as const),
    payload: fc.record({ decky, lan, ip, forwards_l3: flag }, { requiredKeys: ['decky', 'lan'] }),
  }),
  fc.record({ op: fc.constant('detach_decky' as const), payload: fc.record({ decky, lan }) }),
  fc.record({ op: fc.constant('remove_decky' as const), payload: fc.record({ decky }) }),
  fc.record({
    op: fc.constant('update_decky' as const),
    payload: fc.record({ decky, patch, services: words, x: coordinate, force: flag }, { requiredKeys: ['decky'] }),
  }),
);

let made = 0;
/** Gives rows that are staged the ids of rows that are there. */
export function real(graph: Graph): Graph {
  const ids = new Map<string, string>();
  const id = (of: string): string => {
    if (!of.startsWith('staged:')) return of;
    if (!ids.has(of)) ids.set(of, `00000000-0000-4000-8000-${String(++made).padStart(12, '0')}`);
    return ids.get(of)!;
  };
  return {
    lans: graph.lans.map((row) => ({ ...row, id: id(row.id) })),
    deckies: graph.deckies.map((row) => ({ ...row, uuid: id(row.uuid) })),
    edges: graph.edges.map((row) =>
      ({ ...row, id: id(row.id), lan_id: id(row.lan_id), decky_uuid: id(row.decky_uuid) })),
  };
}

/** A graph that ops have made, as the server would have it. */
export const graph: fc.Arbitrary<Graph> = fc.array(op, { minLength: 5, maxLength: 60 })
  .map((ops) => real(preview(empty, ops).graph));

/** Makes a graph by ops that all must do. */
export function build(...ops: Op[]): Graph {
  const { graph, refused } = preview(empty, ops);
  const reason = refused.find((text) => text !== null);
  if (reason) throw new Error(reason);
  return real(graph);
}
