import fc from 'fast-check';
import { expect, test } from 'vitest';
import { parseFilter, type Filtered } from '../src/state/filter.ts';

const failed: Filtered = {
  seq: 412, type: 'mutation.failed', summary: 'add_lan: name taken', payload: { op: 'add_lan', deep: ['needle here'] },
  by: 'Alice',
};
const passes = (text: string, entry = failed): boolean => {
  const filter = parseFilter(text);
  if (filter.error !== null) throw new Error(filter.error);
  return filter.test(entry);
};

test('words, types, seqs, names, and their opposites', () => {
  for (const text of ['', 'NAME', 'type:mutation.*', 'type:mutation.failed', 'seq>411', 'seq<=412', 'seq:412', 'by:ali',
    'is:failed', '"needle here"', '/ta[kx]en/', '/ADD/i', '-type:graph', 'add_lan -is:raw', '-']) {
    expect(text === '-' || passes(text), text).toBe(true);
  }
  for (const text of ['type:mutation', 'type:*.graph', 'seq>412', 'by:bob', '-name', 'is:raw', 'name nothing']) {
    expect(passes(text), text).toBe(false);
  }
});

test('what it does not understand it says', () => {
  for (const text of ['"open', '/open', '/(/', 'colour:red', 'seq>many', 'type:', 'is:odd']) {
    expect(parseFilter(text).error, text).toBeTruthy();
  }
});

test('any text is a filter or an error, and never an exception', () => {
  fc.assert(fc.property(fc.string(), (text) => {
    const filter = parseFilter(text);
    if (filter.error === null) filter.test(failed);
  }));
});

test('a word finds exactly what contains it', () => {
  fc.assert(fc.property(fc.stringMatching(/^[a-z]{1,4}$/), fc.stringMatching(/^[a-z ]{0,20}$/), (word, summary) => {
    const entry = { ...failed, type: 'x', summary, payload: 'x' };
    expect(passes(word, entry)).toBe(word === 'x' || summary.includes(word));
  }));
});
