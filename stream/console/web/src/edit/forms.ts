// Forms of editing, as plain data: what they ask, and the ops that the answers make.
import type { Graph } from 'topostream';
import type { Archetype } from './archetypes.ts';
import { findDecky, findLan, homeOf, namedServices, rehome } from './edits.ts';
import { deckyNames, lanNames, nextName } from './names.ts';
import { validate, type FieldError, type Op } from './ops.ts';

export interface Field {
  readonly name: string;
  readonly label: string;
  readonly kind: 'text' | 'choice' | 'flag' | 'radio';
  readonly value: string | boolean;
  readonly hint?: string;
  readonly options?: readonly { readonly value: string; readonly label: string }[];
}

export type Values = Readonly<Record<string, string | boolean>>;

export interface Form {
  readonly title: string;
  /** What one should know first, in a sentence or two. */
  readonly text?: string;
  readonly fields: readonly Field[];
  readonly submit: string;
  /** The fields' values after one of them changed: a kind of decky, for example, presets its services. */
  readonly follow?: (values: Values, changed: string) => Values;
  /** The ops of the answers, or what is wrong at which field. */
  readonly ops: (values: Values) => readonly Op[] | FieldError;
}

const text = (values: Values, name: string): string => String(values[name] ?? '').trim();
const optional = <K extends string>(values: Values, name: K): { [P in K]?: string } =>
  (text(values, name) ? { [name]: text(values, name) } : {}) as { [P in K]?: string };
const words = (values: Values, name: string): string[] =>
  text(values, name).split(/[\s,]+/).filter((word) => word !== '');
const choices = (names: readonly string[]): { value: string; label: string }[] =>
  names.map((name) => ({ value: name, label: name }));

/** The ops, or what is wrong with them, at the form's field. */
function checked(...ops: Op[]): readonly Op[] | FieldError {
  for (const { op, payload } of ops) {
    const error = validate(op, payload, '');
    if (error) return { ...error, field: error.field.replace(/^patch\./, '').replace(/\[.*/, '') };
  }
  return ops;
}

type Place = { readonly x?: number; readonly y?: number };

export function lanForm(graph: Graph, isDmz: boolean, place: Place = {}): Form {
  return {
    title: isDmz ? 'Add a DMZ' : 'Add a subnet',
    fields: [
      { name: 'name', label: 'Name', kind: 'text', value: isDmz ? 'dmz' : nextName('lan', lanNames(graph)) },
      { name: 'subnet', label: 'Subnet', kind: 'text', value: '', hint: 'empty: the next free /24 of 172.16.0.0/12' },
    ],
    submit: 'Stage',
    ops: (values) => checked({
      op: 'add_lan',
      payload: { name: String(values.name), ...optional(values, 'subnet'), ...(isDmz && { is_dmz: true }), ...place },
    }),
  };
}

export function deckyForm(
  graph: Graph, archetypes: readonly Archetype[], archetype: string, lan: string | null, place: Place = {},
): Form {
  const find = (id: string | boolean | undefined): Archetype | undefined => archetypes.find((one) => one.id === id);
  const preset = (one: Archetype | undefined): Values => ({
    archetype: one?.id ?? '', name: nextName(one?.name ?? 'decky', deckyNames(graph)),
    services: one?.services.join(', ') ?? '', forwards_l3: one?.forwards_l3 ?? false,
  });
  const start = preset(find(archetype));
  return {
    title: 'Add a decky',
    fields: [
      { name: 'archetype', label: 'Kind', kind: 'choice', value: start.archetype!,
        options: [
          ...archetypes.map(({ id, title }) => ({ value: id, label: title })), { value: '', label: 'No kind' },
        ] },
      { name: 'lan', label: 'In LAN', kind: 'choice', value: lan ?? graph.lans[0]?.name ?? '',
        options: choices(lanNames(graph).sort()) },
      { name: 'name', label: 'Name', kind: 'text', value: start.name! },
      { name: 'services', label: 'Services', kind: 'text', value: start.services!, hint: 'names with a comma between' },
      { name: 'ip', label: 'Address', kind: 'text', value: '', hint: 'empty: the next free one of the LAN' },
      { name: 'forwards_l3', label: 'Gateway: lets traffic through between its networks', kind: 'flag',
        value: start.forwards_l3! },
    ],
    submit: 'Stage',
    follow: (values, changed) => changed === 'archetype' ? { ...values, ...preset(find(values.archetype)) } : values,
    ops: (values) => {
      const services = words(values, 'services');
      if (!text(values, 'lan')) return { field: 'lan', problem: 'there is no LAN yet: add a subnet first' };
      return checked({
        op: 'add_decky',
        payload: {
          name: String(values.name), lan: String(values.lan), ...(services.length && { services }),
          ...optional(values, 'archetype'), ...(values.forwards_l3 === true && { forwards_l3: true }),
          ...optional(values, 'ip'), ...place,
        },
      });
    },
  };
}

export function servicesForm(graph: Graph, key: string): Form | null {
  const decky = findDecky(graph, key);
  return decky ? {
    title: `Services of ${decky.name}`,
    fields: [{ name: 'services', label: 'Services', kind: 'text', value: namedServices(decky).join(', '),
      hint: 'names with a comma between; empty: none' }],
    submit: 'Stage',
    ops: (values) => checked({
      op: 'update_decky', payload: { decky: decky.name, services: words(values, 'services') },
    }),
  } : null;
}

export function renameForm(graph: Graph, key: string): Form | null {
  const lan = findLan(graph, key);
  return lan ? {
    title: `Rename LAN ${lan.name}`,
    fields: [{ name: 'name', label: 'Name', kind: 'text', value: lan.name }],
    submit: 'Stage',
    ops: (values) => values.name === lan.name
      ? { field: 'name', problem: 'is its name already: give another' }
      : checked({ op: 'update_lan', payload: { name: lan.name, patch: { name: String(values.name) } } }),
  } : null;
}

export function attachForm(graph: Graph, key: string): Form | null {
  const decky = findDecky(graph, key);
  if (!decky) return null;
  const inside = new Set(graph.edges.filter((edge) => edge.decky_uuid === decky.uuid).map((edge) => edge.lan_id));
  const lans = lanNames({ ...graph, lans: graph.lans.filter(({ id }) => !inside.has(id)) }).sort();
  return {
    title: `Attach ${decky.name} to another LAN`,
    fields: [
      { name: 'lan', label: 'LAN', kind: 'choice', value: lans[0] ?? '', options: choices(lans) },
      { name: 'ip', label: 'Address', kind: 'text', value: '', hint: 'empty: the next free one of the LAN' },
    ],
    submit: 'Stage',
    ops: (values) => lans.length === 0
      ? { field: 'lan', problem: `${decky.name} is in every LAN already` }
      : checked({
        op: 'attach_decky', payload: { decky: decky.name, lan: String(values.lan), ...optional(values, 'ip') },
      }),
  };
}

/** A home cannot change: it offers what can be done instead. */
export function homeForm(graph: Graph, key: string, to: string | null): Form | null {
  const decky = findDecky(graph, key);
  const home = decky && homeOf(graph, decky);
  if (!decky || !home) return null;
  const lans = lanNames(graph).filter((name) => name !== home.name).sort();
  return {
    title: `Another home for ${decky.name}`,
    text: `${home.name} is the home of ${decky.name}, and a home LAN cannot change. It can be attached to another ` +
      'LAN, too, or removed and added again there: then it gets another uuid and address, and its state begins anew.',
    fields: [
      { name: 'lan', label: 'LAN', kind: 'choice', value: to ?? lans[0] ?? '', options: choices(lans) },
      { name: 'how', label: 'How', kind: 'radio', value: 'attach', options: [
        { value: 'attach', label: 'Attach it there, too' },
        { value: 'again', label: 'Remove it and add it again there' }] },
    ],
    submit: 'Stage',
    ops: (values) => {
      const lan = findLan(graph, text(values, 'lan'));
      if (!lan) return { field: 'lan', problem: 'there is no other LAN yet: add a subnet first' };
      return values.how === 'again' ? rehome(graph, decky, lan)
        : checked({ op: 'attach_decky', payload: { decky: decky.name, lan: lan.name } });
    },
  };
}

/** Asks before what a decky lets through changes. */
export function gatewayForm(graph: Graph, key: string, isGateway: boolean): Form | null {
  const decky = findDecky(graph, key);
  if (!decky) return null;
  const lans = graph.edges.filter((edge) => edge.decky_uuid === decky.uuid)
    .map((edge) => findLan(graph, edge.lan_id)?.name ?? '').sort().join(' and ');
  return {
    title: isGateway ? `Demote ${decky.name}` : `Promote ${decky.name} to a gateway`,
    text: isGateway ? `${decky.name} will no longer let traffic through between its networks (${lans}).`
      : `${decky.name} will let traffic through between its networks (${lans}).`,
    fields: [],
    submit: isGateway ? 'Demote' : 'Promote',
    ops: () => checked({
      op: 'update_decky', payload: { decky: decky.name, patch: { forwards_l3: !isGateway }, force: true },
    }),
  };
}

/** The field that a rule of the graph is about; null if it is none of the form's. */
export function fieldOf(form: Form, reason: string): string | null {
  const field = /^(LAN|decky) ".*" exists already$/.test(reason) ? 'name'
    : reason.startsWith('subnet ') ? 'subnet'
      : reason.startsWith('ip ') ? 'ip'
        : reason.startsWith('LAN ') || reason.includes(' is attached to LAN ') ? 'lan' : null;
  return form.fields.some(({ name }) => name === field) ? field : null;
}
