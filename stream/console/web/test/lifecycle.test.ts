/// <reference types="node" />
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { mayBecome, stepsFrom, transitions } from '../src/state/lifecycle.ts';

const sql = readFileSync('../../../sql/001_core.sql', 'utf8');

test('the page offers what the database allows, no more and no less', () => {
  const rule = /_legal := CASE OLD\.status([\s\S]*?)END;/.exec(sql)![1]!;
  const allowed = Object.fromEntries([...rule.matchAll(/WHEN '(\w+)' THEN '([\w, ]+)'/g)]
    .map(([, from, to]) => [from, to!.split(', ')]));
  expect(Object.keys(allowed)).toHaveLength(6);
  expect({ ...allowed, torn_down: [] }).toEqual(transitions);
});

test('each legal step has a title and says what it does', () => {
  for (const status of Object.keys(transitions) as (keyof typeof transitions)[]) {
    expect(stepsFrom(status).map((step) => step.to)).toEqual(transitions[status]);
    for (const { title, says } of stepsFrom(status)) expect([title, says]).not.toContain('');
  }
});

test('what is not legal says what would be', () => {
  expect(mayBecome('degraded', 'active')).toBe(true);
  expect(mayBecome('torn_down', 'active')).toBe('a topology that is torn down may become nothing else');
  expect(mayBecome('active', 'active')).toBe('a topology that is active may become degraded or tearing down');
});
