import fc from 'fast-check';
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { isOpName } from '../src/edit/ops.ts';
import { op } from './graphs.ts';

// stream/api/ops_test.go compares the description with the server.
const description = readFileSync('../../api/openapi.yaml', 'utf8');
const described = [...description.matchAll(/\bop: \{const: (\w+)\}/g)].map(([, name]) => name!)
  .filter((name) => name !== 'changeset').sort();

test('the page has each op that the server has', () => {
  expect(described.length).toBeGreaterThan(0);
  expect(described.filter((name) => !isOpName(name))).toEqual([]);
});

test('random edits are of each op', () => {
  const drawn = new Set(fc.sample(op, { numRuns: 1000, seed: 1 }).map((one) => one.op));
  expect([...drawn].sort()).toEqual(described);
});
