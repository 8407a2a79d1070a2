import { describe as group, expect, test } from 'vitest';
import archetypesFile from '../src/edit/archetypes.json';
import { parseArchetypes } from '../src/edit/archetypes.ts';
import { duplicates, findDecky, findLan, paste, rehome, removal } from '../src/edit/edits.ts';
import {
  attachForm, deckyForm, fieldOf, gatewayForm, homeForm, lanForm, renameForm, servicesForm, type Form,
} from '../src/edit/forms.ts';
import { nextName } from '../src/edit/names.ts';
import type { Op } from '../src/edit/ops.ts';
import { preview } from '../src/edit/preview.ts';
import { build } from './graphs.ts';

const graph = build(
  { op: 'add_lan', payload: { name: 'office', subnet: '10.0.0.0/24', x: 0, y: 0 } },
  { op: 'add_lan', payload: { name: 'plant', subnet: '10.0.1.0/24' } },
  { op: 'add_decky', payload: {
    name: 'web-1', lan: 'office', services: ['ssh'], archetype: 'linux-server', x: 1, y: 2 } },
  { op: 'attach_decky', payload: { decky: 'web-1', lan: 'plant' } },
  { op: 'add_decky', payload: { name: 'gw', lan: 'office', forwards_l3: true } },
);
const decky = (name: string) => findDecky(graph, name)!;
const lan = (name: string) => findLan(graph, name)!;
const allowed = (ops: readonly Op[]): void => expect(preview(graph, ops).refused).toEqual(ops.map(() => null));
const values = (form: Form): Record<string, string | boolean> =>
  Object.fromEntries(form.fields.map((field) => [field.name, field.value]));
const kinds = parseArchetypes(archetypesFile);

test('a name goes on where the last one ended', () => {
  expect(nextName('web', ['web-1', 'web-2'])).toBe('web-3');
  expect(nextName('web-3', ['web-3', 'web-4'])).toBe('web-5');
  expect(nextName('7', [])).toBe('-8');
  expect(nextName('décoy 2', [])).toBe('décoy -3');
});

group('edits', () => {
  test('a LAN is removed with its members, and edges of what goes are not detached before', () => {
    const edge = graph.edges.find(({ is_bridge }) => is_bridge)!;
    const ops = removal(graph, [{ kind: 'edge', key: edge.id }, { kind: 'lan', key: lan('office').id }]);
    expect(ops.map(({ op }) => op)).toEqual(['remove_decky', 'remove_decky', 'remove_lan']);
    allowed(ops);
    expect(removal(graph, [{ kind: 'edge', key: edge.id }]))
      .toEqual([{ op: 'detach_decky', payload: { decky: 'web-1', lan: 'plant' } }]);
  });

  test('a duplicate is beside the first and in the same LANs', () => {
    const ops = duplicates(graph, [{ kind: 'decky', key: decky('web-1').uuid }]);
    allowed(ops);
    expect(ops).toEqual([
      { op: 'add_decky', payload: {
        name: 'web-2', lan: 'office', services: ['ssh'], archetype: 'linux-server', x: 25, y: 26 } },
      { op: 'attach_decky', payload: { decky: 'web-2', lan: 'plant' } },
    ]);
    const all = duplicates(graph, [{ kind: 'lan', key: lan('office').id }]);
    allowed(all);
    expect(all.map(({ payload }) => 'name' in payload && payload.name)).toContain('gw-1');
  });

  test('what is copied is pasted into a LAN', () => {
    const ops = paste(graph, { ...graph, deckies: [decky('gw')] }, lan('plant'));
    expect(ops).toEqual([{ op: 'add_decky', payload: { name: 'gw-1', lan: 'plant', forwards_l3: true } }]);
    allowed(ops);
  });

  test('another home is another decky of the same name', () => {
    const ops = rehome(graph, decky('gw'), lan('plant'));
    expect(ops).toEqual([
      { op: 'remove_decky', payload: { decky: 'gw' } },
      { op: 'add_decky', payload: { name: 'gw', lan: 'plant', forwards_l3: true } },
    ]);
    allowed(ops);
    allowed(rehome(graph, decky('web-1'), lan('plant')));
  });
});

group('forms', () => {
  test('each gives ops that the graph allows, as it stands', () => {
    const forms = [
      lanForm(graph, false), lanForm(graph, true, { x: 1, y: 2 }), deckyForm(graph, kinds, 'plc', 'plant'),
      servicesForm(graph, decky('web-1').uuid)!, attachForm(graph, 'gw')!, homeForm(graph, 'gw', null)!,
      gatewayForm(graph, 'gw', true)!, gatewayForm(graph, 'web-1', false)!,
    ];
    for (const form of forms) {
      const ops = form.ops(values(form));
      if ('problem' in ops) throw new Error(`${form.title}: ${ops.problem}`);
      allowed(ops);
    }
  });

  test('what is wrong is said at its field', () => {
    const form = lanForm(graph, false);
    expect(form.ops({ name: '', subnet: '' })).toEqual({ field: 'name', problem: 'give 1 to 200 characters' });
    expect(form.ops({ name: 'a', subnet: '10.0.0.1/24' }))
      .toEqual({ field: 'subnet', problem: 'has bits set behind its mask: give 10.0.0.0/24' });
    expect(renameForm(graph, 'office')!.ops({ name: 'a ' }))
      .toEqual({ field: 'name', problem: 'begins or ends with a space: leave it out' });
    expect(deckyForm({ ...graph, lans: [] }, kinds, '', null).ops({ name: 'a', lan: '', services: '' }))
      .toEqual({ field: 'lan', problem: 'there is no LAN yet: add a subnet first' });
    expect(fieldOf(form, 'subnet 10.0.0.0/8 overlaps 10.0.0.0/24 of LAN "office"')).toBe('subnet');
    expect(fieldOf(form, 'LAN "office" exists already')).toBe('name');
    expect(fieldOf(form, 'ip 10.0.0.1 is kept for the gateway of LAN "office"')).toBe(null);
  });

  test('a kind presets name and services', () => {
    const form = deckyForm(graph, kinds, '', 'plant');
    expect(form.follow!({ ...values(form), archetype: 'gateway' }, 'archetype'))
      .toMatchObject({ name: 'gw-1', services: 'ssh', forwards_l3: true, lan: 'plant' });
  });
});

test('a file of kinds that is wrong says where', () => {
  expect(kinds.length).toBeGreaterThan(3);
  for (const [json, says] of [
    [null, 'archetypes: give an array'], [{ archetypes: [{}] }, 'archetypes[0].id: give a name'],
    [{ archetypes: [{ id: 'a', services: [1] }] }, 'archetypes[0].services: give an array of names'],
  ] as const) expect(() => parseArchetypes(json)).toThrow(says);
  expect(parseArchetypes({ archetypes: [{ id: 'a' }] }))
    .toEqual([{ id: 'a', title: 'a', name: 'a', services: [], forwards_l3: false }]);
});
