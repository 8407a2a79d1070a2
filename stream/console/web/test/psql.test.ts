/// <reference types="node" />
import { execFileSync } from 'node:child_process';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createTopology, emit, enqueue, identifier, linesFor, linesOf, literal, shellLine, shellWord, stagedLine }
  from '../src/state/psql.ts';

/** What PostgreSQL's lexer reads of string constants, by the manual's section 4.1.2, whichever way it is set. */
function constants(sql: string, standardConforming: boolean): string[] {
  const found: string[] = [];
  for (let i = 0; i < sql.length; i++) {
    if (sql[i] === '"') {
      for (i++; sql[i] !== '"' || sql[i + 1] === '"'; i++) if (sql[i] === '"') i++;
    }
    if (sql[i] !== "'") continue;
    const escapes = sql[i - 1] === 'E' || !standardConforming;
    let text = '';
    for (i++; i < sql.length; i++) {
      if (sql[i] === "'" && sql[i + 1] === "'") i++;
      else if (sql[i] === "'") break;
      else if (escapes && sql[i] === '\\') i++;
      text += sql[i];
    }
    found.push(text);
  }
  return found;
}

// What a name may hold, and above all what quoting gets wrong.
const nasty = fc.oneof(fc.string({ unit: 'grapheme', minLength: 1 }), fc.string({
  minLength: 1,
  unit: fc.constantFrom("'", '"', '\\', '$', '`', '!', ':', ' ', 'E', "''", '$$', '\\\\', ';', '--', 'ü', '%'),
}));

test('a string constant is read as the text that it was written from', () => {
  fc.assert(fc.property(nasty, fc.boolean(), (text, standard) => {
    expect(constants(`SELECT ${literal(text)};`, standard)).toEqual([text]);
  }));
});

test('names survive in every line, and nothing gets out of its constant', () => {
  fc.assert(fc.property(nasty, nasty, fc.boolean(), (name, other, standard) => {
    const read = (sql: string) => constants(sql, standard);
    expect(read(createTopology(name).sql)).toEqual([name]);
    expect(read(emit(name, 'x', { other }).sql)).toEqual(['x', JSON.stringify({ other }), name]);
    const edit = { op: 'add_lan', payload: { name: other } };
    expect(read(enqueue(name, edit, '').sql)).toEqual(['add_lan', JSON.stringify(edit.payload), name]);
    const staged = stagedLine(name, [edit, edit])!;
    expect(read(staged.sql)).toEqual(['changeset', JSON.stringify({ ops: [edit, edit] }), name]);
  }));
});

test('a shell hands on the line as it was', () => {
  const texts = fc.sample(nasty, 200).filter((text) => !text.includes('\0'));
  const script = texts.map((text) => `printf '%s\\0' ${shellWord(text)}`).join('\n');
  const out = execFileSync('sh', ['-c', script], { encoding: 'utf8' });
  expect(out.split('\0').slice(0, -1)).toEqual(texts);
  expect(shellLine("SELECT 'a'")).toBe(`psql -X "$DATABASE_URL" -c 'SELECT '\\''a'\\'''`);
});

test('an identifier keeps its quotes', () => {
  expect(identifier('topology.a"b')).toBe('"topology.a""b"');
});

const subject = {
  id: '00000000-0000-0000-0000-000000000001', name: "o'brien", status: 'degraded' as const,
  graph: {
    lans: [{ id: 'l', topology_id: 't', name: 'lan-1', subnet: '10.0.0.0/24', is_dmz: false, x: null, y: null }],
    deckies: [{ uuid: 'd', topology_id: 't', name: 'web-1', services: ['ssh'], decky_config: {}, ip: null, state: 'up',
      x: null, y: null }],
    edges: [{
      id: 'e', topology_id: 't', decky_uuid: 'd', lan_id: 'l', ip: null, is_bridge: false, forwards_l3: false,
    }],
  },
};

test('the drawer offers each legal status, and no other', () => {
  const ids = linesOf(subject).map((line) => line.id).filter((id) => id.startsWith('status-'));
  expect(ids).toEqual(['status-active', 'status-tearing_down']);
});

test('what is selected has lines of its own, what is gone has none', () => {
  expect(linesFor(subject, { kind: 'edge', key: 'e' })[0]!.sql).toBe(
    `INSERT INTO mutations (topology_id, op, payload) SELECT id, 'detach_decky', ` +
    `'{"decky":"web-1","lan":"lan-1"}' FROM topologies WHERE name = 'o''brien';`);
  for (const kind of ['lan', 'decky', 'mutation'] as const) {
    const lines = linesFor(subject, { kind, key: kind[0]! });
    expect(new Set(lines.map((line) => line.id)).size).toBe(lines.length);
    expect(lines.length).toBeGreaterThan(0);
  }
  expect(linesFor(subject, { kind: 'decky', key: 'gone' })).toEqual([]);
  expect(linesFor(subject, { kind: 'event', key: '1; DROP TABLE topologies' })).toEqual([]);
});

test('a state that is said by hand is another one: what stays as it is is no event', () => {
  for (const state of ['running', 'degraded', 'up']) {
    const deckies = [{ ...subject.graph.deckies[0]!, state }];
    const lines = linesFor({ ...subject, graph: { ...subject.graph, deckies } }, { kind: 'decky', key: 'd' });
    const { sql } = lines.find(({ id }) => id.startsWith('decky-state'))!;
    expect(sql).toMatch(/ SET state = '\w+' /);
    expect(sql).not.toContain(`'${state}'`);
  }
});
