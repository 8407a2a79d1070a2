import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { isOpName, validate } from '../src/edit/ops.ts';
import { preview } from '../src/edit/preview.ts';
import { ghostsOf } from '../src/graph/inflight.ts';
import { graph, op } from './graphs.ts';

// stream/api/ops_test.go compares the description with the server.
const description = readFileSync('../../api/openapi.yaml', 'utf8');
const described = [...description.matchAll(/\bop: \{const: (\w+)\}/g)].map(([, name]) => name!)
  .filter((name) => name !== 'changeset').sort();

test('the page has each op that the server has', () => {
  expect(described.length).toBeGreaterThan(0);
  expect(described.filter((name) => !isOpName(name))).toEqual([]);
  expect(validate('drop', {})).toEqual({ field: 'op', problem: `"drop" is no op: use one of ${described.join(', ')}` });
});

test('an op that is in flight is drawn, unless a rule refuses it', () => {
  fc.assert(fc.property(graph, op, (before, one) => {
    if (preview(before, [one]).refused[0] !== null) return;
    const mutation = { id: 'm', topology_id: '', state: 'pending' as const, ...one };
    expect(ghostsOf(before, [mutation])).not.toEqual([]);
  }), { numRuns: 500 });
});

test('random edits are of each op', () => {
  const drawn = new Set(fc.sample(op, { numRuns: 1000, seed: 1 }).map((one) => one.op));
  expect([...drawn].sort()).toEqual(described);
});
