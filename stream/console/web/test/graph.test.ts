import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { Decky, Edge, Graph, Lan, Mutation } from 'topostream';
import { changedItems } from '../src/graph/diff.ts';
import { findInScene } from '../src/graph/find.ts';
import type { Ghost } from '../src/graph/ghost.ts';
import { healthOf } from '../src/graph/health.ts';
import { rowChangesOf, touches } from '../src/graph/history.ts';
import { distanceToSegment, neighbour, SceneIndex } from '../src/graph/hit.ts';
import { ghostsOf } from '../src/graph/inflight.ts';
import {
  ghostKey, layOut, overlaps, size, type Box, type DeckyToPlace, type LanToPlace, type Remembered,
} from '../src/graph/layout.ts';
import { levelAt } from '../src/graph/level.ts';
import { borderPoint, connectedTo, homesOf, patched, sceneOf, servicesOf, type SceneLink } from '../src/graph/scene.ts';
import type { JournalEvent } from '../src/state/journal.ts';

const none: Remembered = new Map();
const topology_id = 't';
const lan = (name: string, more: Partial<Lan> = {}): Lan =>
  ({ id: 'l-' + name, topology_id, name, subnet: '10.0.0.0/24', is_dmz: false, x: null, y: null, ...more });
const decky = (name: string, more: Partial<Decky> = {}): Decky => ({
  uuid: 'd-' + name, topology_id, name, services: [], decky_config: {}, ip: null, state: 'running', x: null, y: null,
  ...more,
});
const edge = (from: string, to: string, more: Partial<Edge> = {}): Edge => ({
  id: `e-${from}-${to}`, topology_id, decky_uuid: 'd-' + from, lan_id: 'l-' + to, ip: null, is_bridge: false,
  forwards_l3: false, ...more,
});
const graph: Graph = {
  lans: [lan('a', { x: 0, y: 0 }), lan('b', { x: 800, y: 0, is_dmz: true })],
  deckies: [decky('web', { x: 16, y: 44 }), decky('db', { state: 'failed' }), decky('gw')],
  edges: [
    edge('web', 'a'), edge('db', 'a'), edge('gw', 'b', { forwards_l3: true }), edge('web', 'b', { is_bridge: true }),
  ],
};
const scene = (g: Graph = graph, ghosts: readonly Ghost[] = [], moved = new Map<string, { x: number; y: number }>()) =>
  sceneOf(g, ghosts, moved, none).scene;

describe('layout', () => {
  const key = fc.uuid();
  const point = fc.record({ x: fc.integer({ min: -2000, max: 4000 }), y: fc.integer({ min: -2000, max: 4000 }) });
  const inside = fc.record({ x: fc.integer({ min: 0, max: 900 }), y: fc.integer({ min: 0, max: 900 }) });
  const lans = fc.uniqueArray(
    fc.record<LanToPlace>({ key, name: fc.string({ maxLength: 4 }), at: fc.option(point) }),
    { selector: (l) => l.key, maxLength: 12 });
  const world = lans.chain((some) => fc.tuple(fc.constant(some), fc.uniqueArray(
    fc.record<DeckyToPlace>({
      key, name: fc.string({ maxLength: 4 }), at: fc.option(inside),
      lan: fc.option(fc.constantFrom('nowhere', ...some.map((l) => l.key))),
    }), { selector: (d) => d.key, maxLength: 40 })));

  test('what the tables place is there, and a LAN holds its members', () => {
    fc.assert(fc.property(world, ([some, deckies]) => {
      const layout = layOut(some, deckies, none);
      for (const l of some) if (l.at) expect(layout.lans.get(l.key)!.origin).toEqual(l.at);
      for (const d of deckies) {
        const box = layout.deckies.get(d.key)!;
        const home = layout.lans.get(d.lan ?? '');
        if (d.at) {
          const from = home?.origin ?? { x: 0, y: 0 };
          expect({ x: box.x, y: box.y }).toEqual({ x: from.x + d.at.x, y: from.y + d.at.y });
        }
        if (!home) continue;
        expect(box.x).toBeGreaterThanOrEqual(home.x);
        expect(box.y).toBeGreaterThanOrEqual(home.y);
        expect(box.x + box.w).toBeLessThanOrEqual(home.x + home.w);
        expect(box.y + box.h).toBeLessThanOrEqual(home.y + home.h);
      }
    }));
  });

  test('what gets a place here overlaps neither what has one nor another', () => {
    fc.assert(fc.property(world, ([some, deckies]) => {
      const layout = layOut(some, deckies, none);
      const all = (placed: boolean): Box[] => [
        ...some.filter((l) => !!l.at === placed).map((l) => layout.lans.get(l.key)!),
        ...deckies.filter((d) => !!d.at === placed && !layout.lans.has(d.lan ?? ''))
          .map((d) => layout.deckies.get(d.key)!),
      ];
      const [placed, given] = [all(true), all(false)];
      for (const [i, box] of given.entries()) {
        for (const other of [...placed, ...given.slice(i + 1)]) expect(overlaps(box, other)).toBe(false);
      }
      for (const l of some) {
        const members = deckies.filter((d) => d.lan === l.key);
        for (const d of members) {
          if (d.at) continue;
          for (const e of members) {
            if (e !== d) expect(overlaps(layout.deckies.get(d.key)!, layout.deckies.get(e.key)!)).toBe(false);
          }
        }
      }
    }));
  });

  test('the order of rows means nothing', () => {
    fc.assert(fc.property(world, ([some, deckies]) => {
      const here = layOut(some, deckies, none);
      const there = layOut(some.toReversed(), deckies.toReversed(), none);
      expect(new Map([...there.lans].sort())).toEqual(new Map([...here.lans].sort()));
      expect(new Map([...there.deckies].sort())).toEqual(new Map([...here.deckies].sort()));
    }));
  });

  test('what has got a place stays there, whatever comes and goes', () => {
    fc.assert(fc.property(world, world, ([some, deckies], [more, others]) => {
      const first = layOut(some, deckies, none);
      const homes = new Set(some.map((l) => l.key));
      const all = [...some, ...more.filter((l) => !homes.has(l.key))];
      const later = layOut(all, [...deckies, ...others], first.remembered);
      for (const l of some) expect(later.lans.get(l.key)!.origin).toEqual(first.lans.get(l.key)!.origin);
      for (const d of deckies) expect(later.deckies.get(d.key)).toEqual(first.deckies.get(d.key));
    }));
  });

  test('a ghost that becomes a row keeps its place', () => {
    const other = { key: '1', name: 'z', at: null };
    const asked = layOut([other, { key: 'lan:' + ghostKey('m'), name: 'm', at: null }], [], none);
    const more = { key: '2', name: 'a', at: null }; // which would come first
    const there = layOut([{ key: '9', name: 'm', at: null }, other, more], [], asked.remembered);
    expect(there.lans.get('9')!.origin).toEqual(asked.lans.get('lan:' + ghostKey('m'))!.origin);
  });

  test('what has no place stands in the order of the list', () => {
    const named = (name: string): LanToPlace => ({ key: name, name, at: null });
    const order = (of: ReadonlyMap<string, Box>): string[] =>
      [...of].sort(([, a], [, b]) => a.y - b.y || a.x - b.x).map(([key]) => key);
    const { lans, deckies } = layOut([named('net-10'), named('net-2')],
      ['web-10', 'web-9', 'web-1'].map((name) => ({ ...named(name), lan: 'net-2' })), none);
    expect(order(lans)).toEqual(['net-2', 'net-10']);
    expect(order(deckies)).toEqual(['web-1', 'web-9', 'web-10']);
  });

  test('hundreds of LANs without a place are laid out', () => {
    const many = Array.from({ length: 300 }, (_, i) => ({ key: String(i), name: String(i), at: null }));
    expect(layOut(many, [], none).lans.size).toBe(300);
  });
});

describe('scene', () => {
  test('a decky is in its home, and each edge beyond it is a bridge', () => {
    const { lans, links, items } = scene();
    expect(lans.map(({ members }) => members.map(({ name }) => name))).toEqual([['web', 'db'], ['gw']]);
    expect(links.map(({ decky: d, lan: l }) => [d.name, l.name])).toEqual([['web', 'b']]);
    expect(lans[0]!.counts).toEqual({ healthy: 1, failed: 1 });
    expect(items.get('decky:d-gw')).toMatchObject({ gateway: true });
    expect(items.get('decky:d-web')).toMatchObject({ gateway: false, x: 16, y: 44 });
  });

  test('of two homes, which only a hand makes, the least id counts and the other is drawn as a bridge', () => {
    const edges = [edge('web', 'b', { id: 'z' }), edge('web', 'a', { id: 'k' })];
    expect(homesOf(edges).get('d-web')!.id).toBe('k');
    const { links, lans } = scene({ ...graph, edges });
    expect(lans[0]!.members.map(({ name }) => name)).toEqual(['web']);
    expect(links.map(({ key }) => key)).toEqual(['z']);
  });

  test('decky_config says whether it forwards; where it is silent, its edges do', () => {
    const deckies = [decky('gw', { decky_config: { forwards_l3: false } })];
    expect(scene({ ...graph, deckies }).deckies[0]!.gateway).toBe(false);
  });

  test('what was moved in this tab is there, and its members go with it', () => {
    const { items } = scene(graph, [], new Map([['lan:l-a', { x: 100, y: 200 }]]));
    expect(items.get('decky:d-web')).toMatchObject({ x: 116, y: 244 });
  });

  test('ghosts are in the scene until the rows are there, and mark what goes', () => {
    const ghosts: Ghost[] = [
      { kind: 'lan', name: 'c', subnet: null, is_dmz: false, x: 5, y: 2000, phase: 'staged' },
      { kind: 'lan', name: 'a', subnet: null, is_dmz: false, x: 5, y: 5, phase: 'staged' },
      { kind: 'decky', name: 'ssh', lan: 'c', x: null, y: null, phase: 'pending' },
      { kind: 'edge', decky: 'db', lan: 'c', phase: 'applying' },
      { kind: 'going', table: 'deckies', key: 'd-db', phase: 'staged' },
      { kind: 'changing', table: 'deckies', key: 'd-db', phase: 'staged' },
    ];
    const { items, lans, links } = scene(graph, ghosts);
    expect(lans).toHaveLength(3);
    expect(items.get('lan:ghost:c')).toMatchObject({ row: null, origin: { x: 5, y: 2000 }, mark: { kind: 'new' } });
    expect(items.get('decky:ghost:ssh')).toMatchObject({ lan: 'lan:ghost:c', mark: { phase: 'pending' } });
    expect(links.find(({ lan: l }) => l.name === 'c')!.decky.name).toBe('db');
    expect(items.get('decky:d-db')!.mark!.kind).toBe('going');
  });

  test('an edge without its decky or LAN, an unknown state, odd services: nothing breaks', () => {
    const odd = { ...graph, edges: [edge('nobody', 'a'), edge('web', 'nowhere')],
      deckies: [decky('web', { state: 'Zzz', services: { ssh: {} } })] };
    const { deckies, links } = scene(odd);
    expect(deckies[0]).toMatchObject({ health: 'other', state: 'Zzz', services: ['ssh'], lan: null });
    expect(links).toEqual([]);
    expect(servicesOf([{ name: 'http' }, 'ssh', 7])).toEqual(['http', 'ssh', '7']);
    expect(servicesOf(null)).toEqual([]);
  });

  test('a bridge ends on the border of its LAN, from within, too', () => {
    const box = { x: 0, y: 0, w: 100, h: 50 };
    expect(borderPoint(box, { x: 300, y: 20 })).toEqual({ x: 100, y: 20 });
    expect(borderPoint(box, { x: 10, y: 25 })).toEqual({ x: 0, y: 25 });
  });

  test('connected are a LAN with its members and what bridges into it, with its home', () => {
    expect(connectedTo(scene(), new Set(['lan:l-b']))).toEqual(
      new Set(['lan:l-b', 'decky:d-gw', 'edge:e-web-b', 'decky:d-web', 'lan:l-a']));
  });

  test('states that mean the same have one shape', () => {
    expect(['running', 'Active', 'FAILED', 'degraded', 'pending', 'torn_down', 'busy'].map(healthOf)).toEqual(
      ['healthy', 'healthy', 'failed', 'degraded', 'pending', 'stopped', 'other']);
  });
});

describe('what changed', () => {
  test('the same snapshot again changes nothing', () => {
    expect(changedItems(scene(), scene(structuredClone(graph)))).toEqual(new Set());
  });

  test('a new, a changed and a removed row are told, the last by its LAN', () => {
    const next = { ...graph, deckies: [{ ...graph.deckies[0]!, services: ['ssh'] }, graph.deckies[2]!, decky('new')] };
    expect(changedItems(scene(), scene(next))).toEqual(new Set(['decky:d-web', 'decky:d-new', 'lan:l-a']));
  });

  test('a ghost is no change', () => {
    const ghost: Ghost = { kind: 'decky', name: 'x', lan: 'a', x: null, y: null, phase: 'staged' };
    expect(changedItems(scene(), scene(graph, [ghost]))).toEqual(new Set());
  });
});

describe('a scene that is patched', () => {
  const change = fc.record({
    n: fc.nat({ max: 2 }), state: fc.constantFrom('running', 'failed', 'x'), ip: fc.option(fc.constant('10.0.0.7')),
    services: fc.constantFrom<unknown[]>([], ['ssh'], ['ssh', 'http']),
  });

  test('is the one that is made anew', () => {
    fc.assert(fc.property(fc.array(change, { maxLength: 4 }), (changes) => {
      const deckies = [...graph.deckies];
      for (const { n, ...more } of changes) deckies[n] = { ...deckies[n]!, ...more };
      const next = { ...graph, deckies };
      expect(patched(scene(), graph, next)).toEqual(scene(next));
    }));
  });

  test('is none where something moves, connects, comes or goes', () => {
    const row = graph.deckies[0]!;
    const others = graph.deckies.slice(1);
    for (const next of [
      { ...graph, deckies: [{ ...row, x: 99 }, ...others] }, { ...graph, deckies: [{ ...row, name: 'n' }, ...others] },
      { ...graph, deckies: [{ ...row, decky_config: { forwards_l3: true } }, ...others] },
      { ...graph, deckies: others }, { ...graph, edges: [...graph.edges] }, { ...graph, lans: [...graph.lans] },
    ]) expect(patched(scene(), graph, next)).toBe(null);
  });
});

describe('hit test', () => {
  const index = new SceneIndex(scene());
  test('a decky lies above its LAN, a bridge between them, and nothing where there is nothing', () => {
    expect(index.at({ x: 20, y: 50 }, 3, 'near')!.id).toBe('decky:d-web');
    expect(index.at({ x: 20, y: 50 }, 3, 'far')!.id).toBe('lan:l-a');
    expect(index.at({ x: 5, y: 5 }, 3, 'near')!.id).toBe('lan:l-a');
    const link = index.scene.links[0]!;
    const { from, to } = link;
    const middle = { x: 500, y: from.y + ((to.y - from.y) * (500 - from.x)) / (to.x - from.x) };
    expect(index.at(middle, 3, 'near')!.id).toBe('edge:e-web-b');
    expect(index.at({ x: middle.x, y: middle.y + 10 }, 3, 'near')).toBe(null);
  });

  test('a marquee takes the deckies that it touches, else whole LANs', () => {
    const ids = (box: Box, level: 'far' | 'near') => index.marquee(box, level).map(({ id }) => id).sort();
    expect(ids({ x: 10, y: 40, w: 60, h: 10 }, 'near')).toEqual(['decky:d-web']);
    expect(ids({ x: -5, y: -5, w: 2000, h: 2000 }, 'far')).toEqual(['lan:l-a', 'lan:l-b']);
    expect(ids({ x: 10, y: 40, w: 60, h: 10 }, 'far')).toEqual([]);
  });

  test('what is within a box is what overlaps it', () => {
    const coordinate = fc.integer({ min: -500, max: 2000 });
    const length = fc.integer({ min: 1, max: 900 });
    fc.assert(fc.property(fc.record({ x: coordinate, y: coordinate, w: length, h: length }), (box) => {
      const { lans, deckies } = index.scene;
      const found = index.within(box).filter(({ kind }) => kind !== 'edge').map(({ id }) => id);
      for (const node of [...lans, ...deckies]) if (overlaps(node, box)) expect(found).toContain(node.id);
    }));
  });

  test('arrows go to the next in their direction, and to what they came from back', () => {
    const { lans } = index.scene;
    expect(neighbour(index.scene, lans[0]!, 'right')).toBe(lans[1]);
    expect(neighbour(index.scene, lans[1]!, 'left')).toBe(lans[0]);
    expect(neighbour(index.scene, lans[1]!, 'right')).toBe(null);
  });

  test('the distance to a segment is the least to any of its points', () => {
    const p = fc.record({ x: fc.integer({ min: -99, max: 99 }), y: fc.integer({ min: -99, max: 99 }) });
    fc.assert(fc.property(p, p, p, fc.double({ min: 0, max: 1, noNaN: true }), (at, a, b, t) => {
      const on = { x: a.x + t * (b.x - a.x), y: a.y + t * (b.y - a.y) };
      expect(distanceToSegment(at, a, b)).toBeLessThanOrEqual(Math.hypot(at.x - on.x, at.y - on.y) + 1e-9);
    }));
  });

  test('there are three levels of detail', () => {
    expect([0.1, 0.4, 1].map(levelAt)).toEqual(['far', 'middle', 'near']);
  });
});

test('finding: first what is called so, then what begins with it, then what has it in it', () => {
  const g = { ...graph, deckies: [decky('my-web'), decky('web-2'), decky('web', { ip: '10.0.0.9' })] };
  expect(findInScene(scene(g), 'WEB ').map(({ name }) => name)).toEqual(['web', 'web-2', 'my-web']);
  expect(findInScene(scene(g), '10.0.0.9')[0]!.name).toBe('web');
  expect(findInScene(scene(g), 'd-my-web')[0]!.name).toBe('my-web');
  expect(findInScene(scene(g), ' ')).toEqual([]);
});

describe('ghosts of mutations', () => {
  const mutation = (op: string, payload: unknown): Mutation =>
    ({ id: 'm', topology_id, op, payload, state: 'applying' });
  test('each op is what it asks for', () => {
    const of = (op: string, payload: unknown) => ghostsOf(graph, [mutation(op, payload)]);
    const phase = 'applying';
    expect(of('add_lan', { name: 'c' })).toEqual(
      [{ kind: 'lan', name: 'c', subnet: null, is_dmz: false, x: null, y: null, phase }]);
    expect(of('add_decky', { name: 'n', lan: 'a', x: 1, y: 2 })).toEqual(
      [{ kind: 'decky', name: 'n', lan: 'a', x: 1, y: 2, phase }]);
    expect(of('attach_decky', { decky: 'db', lan: 'b' })).toEqual([{ kind: 'edge', decky: 'db', lan: 'b', phase }]);
    expect(of('detach_decky', { decky: 'web', lan: 'b' })).toEqual(
      [{ kind: 'going', table: 'edges', key: 'e-web-b', phase }]);
    expect(of('remove_lan', { name: 'a' })).toEqual([{ kind: 'going', table: 'lans', key: 'l-a', phase }]);
    expect(of('update_lan', { name: 'a' })).toEqual([{ kind: 'changing', table: 'lans', key: 'l-a', phase }]);
    expect(of('remove_decky', { decky: 'db' })).toEqual([{ kind: 'going', table: 'deckies', key: 'd-db', phase }]);
    expect(of('update_decky', { decky: 'db' })).toEqual([{ kind: 'changing', table: 'deckies', key: 'd-db', phase }]);
    expect(of('remove_decky', { decky: 'nobody' })).toEqual([]);
  });

  test('a changeset is each of its edits, and whatever a payload holds, nothing breaks', () => {
    const ops = [{ op: 'add_lan', payload: { name: 'c' } }, { op: 'add_decky', payload: { name: 'n', lan: 'c' } }];
    expect(ghostsOf(graph, [mutation('changeset', { ops })]).map(({ kind }) => kind)).toEqual(['lan', 'decky']);
    const op = fc.constantFrom('add_lan', 'add_decky', 'attach_decky', 'changeset', 'update_lan', 'detach_decky', 'x');
    fc.assert(fc.property(op, fc.jsonValue(), (name, payload) => {
      const set = mutation('changeset', { ops: [{ op: name, payload }] });
      const ghosts = ghostsOf(graph, [mutation(name, payload), set]);
      expect(scene(graph, ghosts).items.size).toBeGreaterThanOrEqual(scene().items.size);
    }));
  });
});

describe('history', () => {
  const applied: JournalEvent = {
    seq: 5, type: 'mutation.applied', ts: '', payload: {
      mutation_id: 'm', op: 'update_decky', version: 2, result: {
        deckies: [{ ...decky('web'), x: 9 }], edges: [edge('web', 'b')], removed: [{ table: 'lans', id: 'l-z' }],
        before: { deckies: [{ uuid: 'd-web', x: 1 }], lans: [lan('z')] },
      },
    },
  };

  test('an event says which rows it made, changed and removed', () => {
    expect(rowChangesOf(applied)).toEqual([
      { kind: 'lan', key: 'l-z', name: 'z', what: 'removed', fields: [] },
      { kind: 'decky', key: 'd-web', name: 'web', what: 'changed', fields: [{ field: 'x', from: 1, to: 9 }] },
      { kind: 'edge', key: 'e-web-b', name: '', what: 'added', fields: [] },
    ]);
  });

  test('a row that went and came back in one event was changed', () => {
    const payload = { lans: [lan('z')], removed: [{ table: 'lans', id: 'l-z' }],
      before: { lans: [lan('z', { x: 1 })] } };
    expect(rowChangesOf({ seq: 1, type: 'graph', ts: '', payload }).map(({ what }) => what)).toEqual(['changed']);
  });

  test('an event touches what it changes, what it removes, and what an edit names', () => {
    const at = (kind: 'lan' | 'decky' | 'edge' | 'mutation', key: string, name = '') => ({ kind, key, name });
    expect(touches(applied, at('decky', 'd-web', 'web'))).toBe(true);
    expect(touches(applied, at('decky', 'd-db', 'db'))).toBe(false);
    expect(touches(applied, at('lan', 'l-z', 'z'))).toBe(true);
    expect(touches(applied, at('lan', 'l-b', 'b'))).toBe(true);
    expect(touches(applied, at('mutation', 'm'))).toBe(true);
    const asked = (op: string, payload: unknown): JournalEvent =>
      ({ seq: 1, type: 'mutation.enqueued', ts: '', payload: { mutation_id: 'm', op, payload } });
    expect(touches(asked('attach_decky', { decky: 'web', lan: 'b' }), at('lan', 'l-b', 'b'))).toBe(true);
    expect(touches(asked('add_lan', { name: 'web' }), at('decky', 'd-web', 'web'))).toBe(false);
    expect(touches(asked('add_decky', { name: 'b', lan: 'a' }), at('lan', 'l-b', 'b'))).toBe(false);
    expect(touches(asked('changeset', { ops: [{ op: 'add_decky', payload: { name: 'web', lan: 'a' } }] }),
      at('decky', 'd-web', 'web'))).toBe(true);
    const own: JournalEvent = { seq: 1, type: 'decky.seen', ts: '', payload: { decky_name: 'web' } };
    expect(touches(own, at('decky', 'd-web', 'web'))).toBe(true);
    expect(touches({ ...own, payload: 'text' }, at('decky', 'd-web', 'web'))).toBe(false);
  });

  test('whatever somebody emitted is read', () => {
    const type = fc.constantFrom('graph', 'mutation.applied', 'mutation.enqueued', 'x');
    fc.assert(fc.property(type, fc.jsonValue(), (name, payload) => {
      const event = { seq: 1, type: name, ts: '', payload };
      touches(event, { kind: 'decky', key: 'k', name: 'n' });
      rowChangesOf(event);
    }));
  });
});

test('a link follows the middle of its decky', () => {
  const link = scene().items.get('edge:e-web-b') as SceneLink;
  expect(link.from).toEqual({ x: 16 + size.card.w / 2, y: 44 + size.card.h / 2 });
});
