import { beforeEach, expect, test } from 'vitest';
import type { Graph } from 'topostream';
import { createKeep, forgetKept, type Kept } from '../src/edit/kept.ts';

const id = 'b2c1a3d4-0000-4000-8000-000000000001';
const graph: Graph = {
  lans: [{ topology_id: id, id: 'A', name: 'office', subnet: '10.0.0.0/24', is_dmz: false, x: 0, y: 0 }],
  deckies: [], edges: [],
};
const kept: Kept = {
  ops: [{ op: 'add_lan', payload: { name: 'lab' } }], past: [[]], future: [], waiting: null, own: ['m1'],
  base: { graph, seq: 7, expected: 3 },
};

beforeEach(() => sessionStorage.clear());

test('what is kept is the same after a reload, of each topology by itself', () => {
  const keep = createKeep(sessionStorage);
  keep.put(id, kept);
  keep.put('other', { ...kept, waiting: 'm2' });
  expect(createKeep(sessionStorage).load()).toEqual(new Map([[id, kept], ['other', { ...kept, waiting: 'm2' }]]));
});

test('what is thrown away, or was signed out, is not there, and other keys stay', () => {
  sessionStorage.setItem('of-the-application', 'x');
  const keep = createKeep(sessionStorage);
  keep.put(id, kept);
  keep.put('other', kept);
  keep.put(id, null);
  expect([...createKeep(sessionStorage).load().keys()]).toEqual(['other']);
  forgetKept(sessionStorage);
  expect(Object.keys(sessionStorage)).toEqual(['of-the-application']);
  expect(keep.has('other')).toBe(false);
});

test('what this page has not written so is left out and removed', () => {
  createKeep(sessionStorage).put(id, kept);
  const unreadable = '{"ops":[{"op":"add_lan","payload":{"name":7}}],"seq":1,"expected":1}';
  for (const wrong of ['{', '{}', '[]', 'null', unreadable]) {
    sessionStorage.setItem(`topostream.staged.${id}`, wrong);
    expect(createKeep(sessionStorage).load().size).toBe(0);
    expect(sessionStorage.getItem(`topostream.staged.${id}`)).toBeNull();
    createKeep(sessionStorage).put(id, kept);
  }
  sessionStorage.removeItem(`topostream.base.${id}`); // without what it was staged for it cannot be rebased
  expect(createKeep(sessionStorage).load().size).toBe(0);
});

test('a storage that is full keeps nothing, and says so', () => {
  const storage = sessionStorage;
  const full = new Proxy(storage, {
    get: (target, name) => name === 'setItem' ? () => { throw new DOMException('full', 'QuotaExceededError'); }
      : (target as unknown as Record<string | symbol, unknown>)[name] instanceof Function
        ? ((target as unknown as Record<string | symbol, (...args: unknown[]) => unknown>)[name]!).bind(target)
        : (target as unknown as Record<string | symbol, unknown>)[name],
  });
  const keep = createKeep(full);
  keep.put(id, kept);
  expect(keep.has(id)).toBe(false);
});
