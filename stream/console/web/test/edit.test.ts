import fc from 'fast-check';
import { applyGraph, type Graph, type GraphChanges } from 'topostream';
import { describe as group, expect, test, vi } from 'vitest';
import { describe, describeChanges } from '../src/edit/diff.ts';
import { differences, inverse, opsBetween, same } from '../src/edit/inverse.ts';
import { opsOf, validate, type Op } from '../src/edit/ops.ts';
import { ghosts, isGateway, preview } from '../src/edit/preview.ts';
import { rebase } from '../src/edit/rebase.ts';
import { nothing, redo, stage, undo, unstage, type Staged } from '../src/edit/staged.ts';
import { build, empty, graph, op, real } from './graphs.ts';

vi.setConfig({ testTimeout: 60_000 }); // properties take their time on a busy machine

const lan = (name: string, subnet?: string): Op => ({ op: 'add_lan', payload: { name, ...(subnet && { subnet }) } });
const decky = (name: string, home: string, ...services: string[]): Op =>
  ({ op: 'add_decky', payload: { name, lan: home, ...(services.length && { services }) } });
const attach = (name: string, to: string): Op => ({ op: 'attach_decky', payload: { decky: name, lan: to } });
const detach = (name: string, from: string): Op => ({ op: 'detach_decky', payload: { decky: name, lan: from } });
const remove = (name: string): Op => ({ op: 'remove_decky', payload: { decky: name } });
const removeLan = (name: string): Op => ({ op: 'remove_lan', payload: { name } });
const rename = (from: string, to: string): Op => ({ op: 'update_lan', payload: { name: from, patch: { name: to } } });
const update = (name: string, change: object): Op => ({ op: 'update_decky', payload: { decky: name, ...change } });

const small = build(lan('office', '10.0.0.0/24'), lan('plant', '10.0.1.0/24'), decky('web', 'office', 'ssh'),
  decky('db', 'office'), attach('db', 'plant'));

/** Stages edits that must be allowed. */
function staged(on: Graph, ...ops: Op[]): Staged {
  return ops.reduce<Staged>((all, one) => {
    const next = stage(all, on, one);
    if (typeof next === 'string') throw new Error(next);
    return next;
  }, nothing);
}

/** What the triggers record of a change. */
function changesBetween(before: Graph, after: Graph): GraphChanges {
  const changes: Record<string, unknown[]> = { lans: [], deckies: [], edges: [] };
  const old: Record<string, unknown[]> = { lans: [], deckies: [], edges: [] };
  const removed: { table: keyof Graph; id: string }[] = [];
  for (const table of ['lans', 'deckies', 'edges'] as const) {
    const key = table === 'deckies' ? 'uuid' : 'id';
    const rows = (of: Graph): Map<string, Record<string, unknown>> =>
      new Map((of[table] as unknown as Record<string, unknown>[]).map((row) => [String(row[key]), row]));
    const [was, is] = [rows(before), rows(after)];
    for (const [id, row] of is) {
      const then = was.get(id);
      if (then && same(then, row)) continue;
      changes[table]!.push(row);
      if (!then) continue;
      const columns = Object.keys(then).filter((column) => column === key || !same(then[column], row[column]));
      old[table]!.push(Object.fromEntries(columns.map((column) => [column, then[column]])));
    }
    for (const [id, row] of was) {
      if (is.has(id)) continue;
      removed.push({ table, id });
      old[table]!.push(row);
    }
  }
  return { ...changes, removed, before: old } as GraphChanges;
}

group('ops', () => {
  test.each([
    ['add_lan', { name: 7 }, 'payload.name: give a string'],
    ['add_lan', {}, 'payload.name: is missing: give a string'],
    ['add_lan', { name: ' a' }, 'payload.name: begins or ends with a space: leave it out'],
    ['add_lan', { name: 'a\u202eb' }, 'payload.name: has U+202E, which nobody sees: leave it out'],
    ['add_lan', { name: 'e\u0301' }, 'payload.name: is not in Unicode\'s normal form C: give "é"'],
    ['add_lan', { name: 'a\nb' }, 'payload.name: has a control character: leave it out'],
    ['add_lan', { name: 'a', subnet: '10.0.0.1/24' }, 'payload.subnet: has bits set behind its mask: give 10.0.0.0/24'],
    ['add_lan', { name: 'a', subnet: '10.0.0.0/31' },
      'payload.subnet: give a network of /8 to /30 (IPv4) or /32 to /126 (IPv6)'],
    ['add_lan', { name: 'a', subnet: '127.0.0.0/24' },
      'payload.subnet: is in 127.0.0.0/8, which no LAN can have: give a network of hosts, for example 10.0.0.0/24'],
    ['add_lan', { name: 'a', subnet: null }, 'payload.subnet: give a string'],
    ['update_lan', { name: 'a', x: 1, patch: { x: 2 } }, 'payload.patch: give x and y in it or beside it, not both'],
    ['update_lan', { name: 'a', patch: { subnet: '10.0.0.0/8' } },
      'payload.patch.subnet: cannot be changed while the topology is live: remove the LAN and add another'],
    ['update_lan', { name: 'a', patch: { Name: 'b' } }, 'payload.patch.Name: is no field of this object: remove it'],
    ['add_decky', { name: 'a', lan: 'b', services: ['ssh', ''] }, 'payload.services[1]: give 1 to 200 characters'],
    ['add_decky', { name: 'a', lan: 'b', ip: '10.0.0' }, 'payload.ip: give an IP address, for example 10.0.0.2'],
    ['add_decky', { name: 'x'.repeat(201), lan: 'b' }, 'payload.name: give 1 to 200 characters'],
    ['update_decky', { decky: 'a', patch: { forwards_l3: 1 } }, 'payload.patch.forwards_l3: give true or false'],
    ['update_decky', { decky: 'a', patch: { decky_config: 1 } }, 'payload.patch.decky_config: give an object'],
    ['remove_decky', [], 'payload: give a JSON object'],
  ])('%s %j', (name, payload, says) => {
    const error = validate(name, payload);
    expect(error && `${error.field}: ${error.problem}`).toBe(says);
  });

  test('random ops are right, and those of a changeset are read', () => {
    fc.assert(fc.property(fc.array(op, { minLength: 1 }), (ops) => {
      for (const one of ops) expect(validate(one.op, one.payload)).toBe(null);
      expect(opsOf('changeset', { ops })).toEqual(ops);
    }));
    expect(opsOf('changeset', { ops: [{ op: 'nothing', payload: {} }] })).toEqual([]);
  });
});

group('preview', () => {
  test.each<[Op, string]>([
    [lan('office'), 'LAN "office" exists already'],
    [lan('b', '10.0.0.0/16'), 'subnet 10.0.0.0/16 overlaps 10.0.0.0/24 of LAN "office"'],
    [removeLan('office'), 'LAN "office" is the home of decky "db", "web": remove that first'],
    [removeLan('nowhere'), 'LAN "nowhere" does not exist'],
    [rename('office', 'plant'), 'LAN "plant" exists already'],
    [decky('web', 'plant'), 'decky "web" exists already'],
    [{ op: 'add_decky', payload: { name: 'a', lan: 'office', ip: '10.0.1.2' } },
      'ip 10.0.1.2 is no host\'s address in 10.0.0.0/24 of LAN "office"'],
    [{ op: 'add_decky', payload: { name: 'a', lan: 'office', ip: '10.0.0.1' } },
      'ip 10.0.0.1 is kept for the gateway of LAN "office"'],
    [{ op: 'add_decky', payload: { name: 'a', lan: 'office', ip: '10.0.0.2' } },
      'ip 10.0.0.2 is taken by decky "web" in LAN "office"'],
    [attach('db', 'plant'), 'decky "db" is attached to LAN "plant" already'],
    [detach('web', 'plant'), 'decky "web" is not attached to LAN "plant"'],
    [detach('web', 'office'), 'LAN "office" is the home of decky "web": it can only be removed as a whole'],
    [update('web', { patch: { forwards_l3: true } }), 'forwards_l3 of decky "web" would become true, which changes ' +
      'what it lets through: say "force": true if that is meant'],
  ])('%j is refused as the server does', (one, reason) => {
    const { graph: after, refused } = preview(small, [one]);
    expect(refused).toEqual([reason]);
    expect(after).toEqual(small);
    expect(after.lans).toBe(small.lans);
  });

  test('a second DMZ is refused', () => {
    const dmz = (name: string): Op => ({ op: 'add_lan', payload: { name, is_dmz: true } });
    expect(preview(empty, [dmz('a'), dmz('b')]).refused)
      .toEqual([null, 'LAN "a" is the DMZ already: a topology has one']);
  });

  test('an edge takes the next free address, and a gateway is known by its configuration or its home', () => {
    const { graph: after } = preview(small,
      [decky('new', 'plant'), update('web', { patch: { forwards_l3: true }, force: true })]);
    expect(after.deckies.find(({ name }) => name === 'new')?.ip).toBe('10.0.1.3');
    expect(after.deckies.filter((row) => isGateway(after, row)).map(({ name }) => name)).toEqual(['web']);
  });

  test('ghosts say what comes, goes and changes', () => {
    const after = preview(small, [lan('lab'), decky('cam', 'lab'), attach('web', 'plant'), remove('db')]).graph;
    const said = ghosts(small, after, 'staged').map((ghost) => ghost.kind + ' ' + (
      'name' in ghost ? ghost.name : 'decky' in ghost ? `${ghost.decky} ${ghost.lan}` : ghost.table));
    expect(said.sort())
      .toEqual(['decky cam', 'edge web plant', 'going deckies', 'going edges', 'going edges', 'lan lab']);
  });
});

group('staged', () => {
  test('two updates of one decky are one', () => {
    const { ops } = staged(small, update('web', { services: ['http'] }), update('db', { x: 1 }),
      update('web', { patch: { banner: 'x' } }), update('web', { patch: { banner: 'y' }, services: ['ftp'] }));
    expect(ops).toEqual([update('web', { services: ['ftp'], patch: { banner: 'y' } }), update('db', { x: 1 })]);
  });

  test('an update that is taken back vanishes', () => {
    expect(staged(small, update('web', { services: ['http'] }), update('web', { services: ['ssh'] })).ops).toEqual([]);
  });

  test('what is added and removed again vanishes, with what was done to it', () => {
    const { ops } = staged(small, lan('lab'), lan('hall'), decky('cam', 'lab'), attach('cam', 'plant'),
      update('cam', { services: ['ftp'] }), remove('cam'), removeLan('lab'));
    expect(ops).toEqual([lan('hall')]);
  });

  test('an update of what is staged is folded into it', () => {
    const { ops } = staged(small, decky('cam', 'office'),
      update('cam', { services: ['ftp'], patch: { forwards_l3: true, zoom: 2 }, force: true }));
    expect(ops).toEqual([
      { op: 'add_decky', payload: { name: 'cam', lan: 'office', services: ['ftp'], forwards_l3: true } },
      update('cam', { patch: { zoom: 2 } }),
    ]);
  });

  test('a rename follows', () => {
    const { ops } = staged(small, lan('lab'), decky('cam', 'lab'), rename('lab', 'hall'), attach('web', 'hall'));
    expect(ops).toEqual([lan('hall'), decky('cam', 'hall'), attach('web', 'hall')]);
    expect(staged(small, rename('office', 'a'), decky('cam', 'a'), rename('a', 'b')).ops)
      .toEqual([rename('office', 'b'), decky('cam', 'b')]);
    expect(staged(small, rename('office', 'a'), decky('cam', 'a'), rename('a', 'office')).ops)
      .toEqual([decky('cam', 'office')]);
  });

  test('a LAN that was renamed is removed by its old name', () => {
    expect(staged(small, rename('plant', 'a'), attach('web', 'a'), removeLan('a')).ops).toEqual([removeLan('plant')]);
  });

  test('attached and detached again is nothing', () => {
    expect(staged(small, attach('web', 'plant'), detach('web', 'plant')).ops).toEqual([]);
    expect(staged(small, detach('db', 'plant'), attach('db', 'plant')).ops).toEqual([]);
  });

  test('names that change places are not made one', () => {
    const ops = [rename('office', 'a'), rename('plant', 'office'), rename('a', 'plant')];
    expect(preview(small, staged(small, ...ops).ops).refused).not.toContain(expect.any(String));
    expect(staged(small, ...ops).ops).toEqual(ops);
  });

  test('what is refused is not staged, and says why', () => {
    expect(stage(nothing, small, removeLan('office')))
      .toBe('LAN "office" is the home of decky "db", "web": remove that first');
    expect(stage(nothing, small, lan(' x'))).toBe('name: begins or ends with a space: leave it out');
    const many = Array.from({ length: 101 }, (_, i) => decky(`d${i}`, 'office'));
    expect(stage(nothing, small, ...many)).toBe('a change set holds at most 100 edits: apply what is staged first');
  });

  test('one edit is taken back with those that need it', () => {
    const all = staged(small, lan('lab'), decky('cam', 'lab'), attach('web', 'lab'), decky('plc', 'plant'));
    expect(unstage(all, small, 0).ops).toEqual([decky('plc', 'plant')]);
    const renamed = staged(small, rename('plant', 'hall'), decky('plc', 'hall'));
    expect(unstage(renamed, small, 0).ops).toEqual([decky('plc', 'plant')]);
  });

  test('undo and redo go through every step and back', () => {
    fc.assert(fc.property(graph, fc.array(op, { maxLength: 12 }), (on, ops) => {
      const steps: Staged[] = [nothing];
      for (const one of ops) {
        const next = stage(steps.at(-1)!, on, one);
        if (typeof next !== 'string') steps.push(next);
      }
      let now = steps.at(-1)!;
      for (const step of steps.slice(0, -1).reverse()) expect((now = undo(now)).ops).toEqual(step.ops);
      expect(undo(now)).toEqual(now);
      for (const step of steps.slice(1)) expect((now = redo(now)).ops).toEqual(step.ops);
      expect(redo(now)).toEqual(now);
    }));
  });

  test('what is staged makes the same graph as the edits one by one, and none of it is refused', () => {
    fc.assert(fc.property(graph, fc.array(op, { maxLength: 30 }), (on, ops) => {
      let now = nothing;
      const done: Op[] = [];
      for (const one of ops) {
        const next = stage(now, on, one);
        if (typeof next === 'string') continue;
        now = next;
        done.push(one);
      }
      const [got, want] = [preview(on, now.ops), preview(on, done)];
      expect(got.refused.filter((reason) => reason !== null)).toEqual([]);
      expect(now.ops.length).toBeLessThanOrEqual(done.length + done.filter((one) => one.op === 'update_decky').length);
      // Where an edit that vanished had taken an address, another one has it now, and may stand in the way.
      if (want.refused.some((reason) => reason !== null)) return;
      expect(differences(got.graph, want.graph, ['subnet', 'ip'])).toEqual([]);
      expect(differences(want.graph, got.graph, ['subnet', 'ip'])).toEqual([]);
    }), { numRuns: 200 });
  });
});

group('inverse', () => {
  const ids = /: uuid does not return|: state does not return/;

  test('for random graphs and ops, preview and then inverse give the graph before', () => {
    fc.assert(fc.property(graph, fc.array(op, { minLength: 1, maxLength: 25 }), (before, ops) => {
      const after = real(preview(before, ops).graph);
      const changes = changesBetween(before, after);
      expect(applyGraph(after, changes, true).lans).toEqual(expect.arrayContaining([...before.lans]));
      const { ops: back, lost } = inverse(changes, after);
      expect(lost.filter((sentence) => !ids.test(sentence))).toEqual([]);
      const { graph: again, refused } = preview(after, back);
      expect(refused.filter((reason) => reason !== null)).toEqual([]);
      const but = ['uuid'];
      expect(differences(again, before, but)).toEqual([]);
      expect(differences(before, again, but)).toEqual([]);
    }), { numRuns: 200 });
  });

  test('what was changed by hand is undone, too', () => {
    const edges = small.edges.map((edge) => edge.is_bridge ? { ...edge, forwards_l3: true } : edge);
    const web = small.deckies.find(({ name }) => name === 'web')!;
    const moved = (ip: string): Graph => ({
      ...small, deckies: small.deckies.map((row) => row === web ? { ...row, ip } : row),
      edges: small.edges.map((edge) => edge.decky_uuid === web.uuid ? { ...edge, ip } : edge),
    });
    for (const after of [{ ...small, edges }, moved('10.0.0.77')]) {
      const { ops, lost } = inverse(changesBetween(small, after), after);
      expect(lost.filter((sentence) => !ids.test(sentence))).toEqual([]);
      expect(differences(preview(after, ops).graph, small, ['uuid'])).toEqual([]);
    }
  });

  test('any graph is made of any other', () => {
    fc.assert(fc.property(graph, graph, (from, to) => {
      const { ops, lost } = opsBetween(from, to);
      expect(lost.filter((sentence) => !ids.test(sentence))).toEqual([]);
      expect(differences(to, preview(from, ops).graph, ['uuid'])).toEqual([]);
    }));
  });

  test('a decky that was removed comes back with another uuid, and it says so', () => {
    const after = preview(small, [remove('db')]).graph;
    const { ops, lost } = inverse(changesBetween(small, after), after);
    expect(ops).toEqual([
      { op: 'add_decky', payload: { name: 'db', lan: 'office', ip: '10.0.0.3' } },
      { op: 'attach_decky', payload: { decky: 'db', lan: 'plant', ip: '10.0.1.2' } },
    ]);
    expect(lost).toEqual([`decky db: uuid does not return (${small.deckies[1]!.uuid})`]);
  });

  test('what others have done since stays', () => {
    const after = real(preview(small, [lan('lab'), update('web', { services: ['ftp'] })]).graph);
    const changes = changesBetween(small, after);
    const later = real(preview(after, [decky('cam', 'lab'), remove('web')]).graph);
    const { ops, lost } = inverse(changes, later);
    expect(ops).toEqual([]);
    expect(lost).toEqual(['a decky that was changed is no longer there',
      'LAN lab stays: it is the home of decky cam by now']);
  });
});

group('rebase', () => {
  const others = (...ops: Op[]): Graph => real(preview(small, ops).graph);
  const outcomes = (head: Graph, ...ops: Op[]): string[] =>
    rebase(small, head, ops).map(({ state, reason }) => state + (reason ? ': ' + reason : ''));

  test('what others did elsewhere does not matter', () => {
    expect(outcomes(others(decky('plc', 'plant')), update('web', { services: ['ftp'] }), removeLan('nowhere')))
      .toEqual(['valid', 'conflict: LAN "nowhere" does not exist']);
  });

  test('what is gone is a conflict, and so is what needs it', () => {
    expect(outcomes(
      others(remove('web')), update('web', { services: ['ftp'] }), attach('web', 'plant'), decky('web', 'plant')))
      .toEqual(['conflict: decky "web" was removed meanwhile', 'conflict: decky "web" was removed meanwhile', 'valid']);
    expect(outcomes(others(detach('db', 'plant'), removeLan('plant')), decky('plc', 'plant'), attach('plc', 'office')))
      .toEqual(['conflict: LAN "plant" was removed meanwhile', 'conflict: decky "plc" does not exist']);
  });

  test('a row that was removed and made anew is another one', () => {
    expect(outcomes(others(remove('web'), decky('web', 'plant')), update('web', { services: ['ftp'] })))
      .toEqual(['conflict: decky "web" was removed meanwhile']);
  });

  test('a name that others took is a conflict', () => {
    expect(outcomes(others(decky('cam', 'office')), decky('cam', 'office')))
      .toEqual(['conflict: decky "cam" exists already']);
  });

  test('a LAN that others renamed is followed', () => {
    const all = rebase(small, others(rename('office', 'hall')),
      [decky('cam', 'office'), rename('plant', 'p'), attach('cam', 'p')]);
    expect(all.map(({ op: one }) => one)).toEqual([decky('cam', 'hall'), rename('plant', 'p'), attach('cam', 'p')]);
    expect(all.map(({ state, reason }) => [state, reason]))
      .toEqual([['changed', 'LAN "office" is "hall" now'], ['valid', null], ['valid', null]]);
  });

  test('a decky that others changed says what', () => {
    const theirs = update('web', { services: ['smb'], patch: { banner: 'x' } });
    expect(outcomes(others(theirs), update('web', { services: ['ftp'] })))
      .toEqual(['changed: its services were changed meanwhile: ssh → smb; its configuration was changed meanwhile']);
  });

  test('nothing changed: all is valid', () => {
    fc.assert(fc.property(graph, fc.array(op, { maxLength: 15 }), (on, ops) => {
      let now = nothing;
      for (const one of ops) {
        const next = stage(now, on, one);
        if (typeof next !== 'string') now = next;
      }
      const copy = structuredClone(on);
      for (const head of [on, copy]) {
        expect(rebase(on, head, now.ops)).toEqual(now.ops.map((one) => ({ op: one, state: 'valid', reason: null })));
      }
    }));
  });

  test('what is left after a rebase can all be done', () => {
    const few = fc.array(op, { maxLength: 12 });
    fc.assert(fc.property(graph, few, few, (on, mine, theirs) => {
      let now = nothing;
      for (const one of mine) {
        const next = stage(now, on, one);
        if (typeof next !== 'string') now = next;
      }
      const head = real(preview(on, theirs).graph);
      const left = rebase(on, head, now.ops).filter(({ state }) => state !== 'conflict').map(({ op: one }) => one);
      expect(preview(head, left).refused.filter((reason) => reason !== null)).toEqual([]);
    }), { numRuns: 200 });
  });
});

group('diff', () => {
  test.each<[Op, string]>([
    [decky('web-3', 'office', 'ssh', 'http'), '+ add decky web-3 to office (ssh, http)'],
    [lan('lab'), '+ add LAN lab (the next free subnet)'],
    [removeLan('plant'), '− remove LAN plant (10.0.1.0/24, 1 decky detached)'],
    [remove('web'), '− remove decky web from office (10.0.0.2)'],
    [rename('office', 'hall'), '~ rename LAN office to hall'],
    [update('web', { services: ['http'], patch: { forwards_l3: true, banner: null } }),
      '~ web: becomes a gateway; services ssh → http; banner removed'],
    [attach('web', 'plant'), '+ attach web to plant'],
    [detach('db', 'plant'), '− detach db from plant'],
  ])('%j', (one, text) => {
    const line = describe(one, small);
    expect(`${line.sign} ${line.text}`).toBe(text);
  });

  test('changes that have happened', () => {
    const after = real(preview(small,
      [lan('lab'), decky('cam', 'lab'), attach('web', 'plant'), update('web', { services: [] }), remove('db'),
        rename('office', 'hall')]).graph);
    expect(describeChanges(changesBetween(small, after), after).map(({ sign, text }) => `${sign} ${text}`)).toEqual([
      '~ LAN hall: name office → hall', '+ LAN lab added', '~ decky web: services ssh → none', '+ decky cam added',
      '+ web in plant added', '− decky db removed', '− db detached from plant',
    ]);
  });
});
