// The ops of mutations, and what is wrong with one: the server's sentences (stream/op.go, stream/object.go), so that a
// form says at its field what the server would say.
import { formatSubnet, masked, overlaps, parseAddress, parseSubnet } from './address.ts';

export interface Payloads {
  add_lan: { name: string; subnet?: string; is_dmz?: boolean; x?: number; y?: number };
  remove_lan: { name: string };
  update_lan: { name: string; patch?: { name?: string; x?: number; y?: number }; x?: number; y?: number };
  add_decky: {
    name: string; lan: string; services?: string[]; archetype?: string; forwards_l3?: boolean; ip?: string;
    x?: number; y?: number;
  };
  attach_decky: { decky: string; lan: string; ip?: string; forwards_l3?: boolean };
  detach_decky: { decky: string; lan: string };
  remove_decky: { decky: string };
  update_decky: {
    decky: string; patch?: Record<string, unknown>; services?: string[]; x?: number; y?: number; force?: boolean;
  };
}

/** One edit: what a changeset holds. */
export type Op = { readonly [K in keyof Payloads]: { readonly op: K; readonly payload: Payloads[K] } }[keyof Payloads];

/** What is wrong with one field, and the fix; field is a path: payload.patch.name. */
export interface FieldError {
  readonly field: string;
  readonly problem: string;
}

/** How many edits a changeset holds at most. */
export const maxChangeset = 100;
const maxName = 200;

const control = /[\u0000-\u001f\u007f-\u009f]/;
const noHosts = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/4', '240.0.0.0/4', '::/16', 'ff00::/8'];

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Reads an object field by field and keeps the first error. */
class Reader {
  readonly left: Map<string, unknown>;
  error: FieldError | null = null;

  constructor(readonly path: string, value: unknown) {
    if (!isObject(value)) this.error = { field: path, problem: 'give a JSON object' };
    this.left = new Map(isObject(value) ? Object.entries(value) : []);
  }

  at(name: string): string { return this.path ? `${this.path}.${name || '""'}` : name; }

  fail(name: string, problem: string): void { this.error ??= { field: this.at(name), problem }; }

  /** Takes a field that may be missing, if it is of the kind that is asked for. */
  take<T>(name: string, is: (value: unknown) => value is T, problem: string): T | undefined {
    if (!this.left.has(name)) return undefined;
    const value = this.left.get(name);
    this.left.delete(name);
    if (is(value)) return value;
    this.fail(name, problem);
    return undefined;
  }

  name(name: string): string {
    if (!this.left.has(name)) this.fail(name, 'is missing: give a string');
    const value = this.take(name, (v) => typeof v === 'string', 'give a string') ?? '';
    if (!this.error && (value === '' || [...value].length > maxName || value.includes('\0'))) {
      this.fail(name, `give 1 to ${maxName} characters`);
    }
    return value;
  }

  newName(name: string): void {
    const value = this.name(name);
    if (this.error) return;
    const problem = nameProblem(value);
    if (problem) this.fail(name, problem);
  }

  flag(name: string): void { this.take(name, (v) => typeof v === 'boolean', 'give true or false'); }

  number(name: string): number | undefined {
    return this.take(name, (v): v is number => typeof v === 'number' && Number.isFinite(v), 'give a number');
  }

  words(name: string): void {
    const words = this.take(name, (v): v is string[] => Array.isArray(v) && v.every((w) => typeof w === 'string'),
      'give an array of strings') ?? [];
    words.forEach((word, i) => {
      if (word === '' || [...word].length > maxName) this.fail(`${name}[${i}]`, `give 1 to ${maxName} characters`);
    });
  }

  subnet(name: string): void {
    const text = this.take(name, (v) => typeof v === 'string', 'give a string');
    const problem = text === undefined ? null : subnetProblem(text);
    if (problem) this.fail(name, problem);
  }

  address(name: string): void {
    const text = this.take(name, (v) => typeof v === 'string', 'give a string');
    if (text !== undefined && !parseAddress(text)) this.fail(name, 'give an IP address, for example 10.0.0.2');
  }

  /** Refuses the columns that cannot be changed, and says why. */
  refuseFixed(): void {
    for (const fixed of ['subnet', 'is_dmz']) {
      if (!this.left.delete(fixed)) continue;
      this.fail(fixed, 'cannot be changed while the topology is live: remove the LAN and add another');
    }
  }

  close(): FieldError | null {
    const unknown = [...this.left.keys()].sort()[0];
    if (unknown !== undefined) this.fail(unknown, 'is no field of this object: remove it');
    return this.error;
  }
}

/** What is wrong with a name for something new; null if nothing is. */
function nameProblem(name: string): string | null {
  if (name === '' || [...name].length > maxName) return `give 1 to ${maxName} characters`;
  if (control.test(name)) return 'has a control character: leave it out';
  if (name.trim() !== name) return 'begins or ends with a space: leave it out';
  const hidden = /[\p{Cf}\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c]/u.exec(name)?.[0];
  if (hidden) {
    const code = hidden.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0');
    return `has U+${code}, which nobody sees: leave it out`;
  }
  if (name.normalize('NFC') !== name) {
    return `is not in Unicode's normal form C: give ${JSON.stringify(name.normalize('NFC'))}`;
  }
  return null;
}

/** What is wrong with a LAN's subnet; null if nothing is. */
function subnetProblem(text: string): string | null {
  const subnet = parseSubnet(text);
  if (!subnet) return 'give a subnet, for example 10.0.0.0/24';
  if (masked(subnet).address.value !== subnet.address.value) {
    return `has bits set behind its mask: give ${formatSubnet(masked(subnet))}`;
  }
  const { address: { bits }, length } = subnet;
  if (bits === 32 ? length < 8 || length > 30 : length < 32 || length > 126) {
    return 'give a network of /8 to /30 (IPv4) or /32 to /126 (IPv6)';
  }
  const taken = noHosts.find((network) => overlaps(parseSubnet(network)!, subnet));
  return taken ? `is in ${taken}, which no LAN can have: give a network of hosts, for example 10.0.0.0/24` : null;
}

const readers: { readonly [K in keyof Payloads]: (o: Reader) => void } = {
  add_lan: (o) => { o.newName('name'); o.subnet('subnet'); o.flag('is_dmz'); o.number('x'); o.number('y'); },
  remove_lan: (o) => { o.name('name'); },
  update_lan: (o) => {
    o.name('name');
    const place = [o.number('x'), o.number('y')];
    const patch = o.left.get('patch');
    if (!o.left.delete('patch')) {
      o.refuseFixed();
      return;
    }
    if (place.some((n) => n !== undefined)) o.fail('patch', 'give x and y in it or beside it, not both');
    const inner = new Reader(o.at('patch'), patch);
    if (inner.left.has('name')) inner.newName('name');
    inner.number('x');
    inner.number('y');
    inner.refuseFixed();
    o.error ??= inner.close();
  },
  add_decky: (o) => {
    o.newName('name');
    o.name('lan');
    o.words('services');
    if (o.left.has('archetype')) o.name('archetype');
    o.flag('forwards_l3');
    o.address('ip');
    o.number('x');
    o.number('y');
  },
  attach_decky: (o) => { o.name('decky'); o.name('lan'); o.address('ip'); o.flag('forwards_l3'); },
  detach_decky: (o) => { o.name('decky'); o.name('lan'); },
  remove_decky: (o) => { o.name('decky'); },
  update_decky: (o) => {
    o.name('decky');
    const patch = o.take('patch', isObject, 'give an object');
    o.words('services');
    o.number('x');
    o.number('y');
    o.flag('force');
    if (patch && 'decky_config' in patch && !isObject(patch.decky_config)) {
      o.fail('patch.decky_config', 'give an object');
    }
    const flag = patch && unwrapped(patch).forwards_l3;
    if (flag !== undefined && flag !== null && typeof flag !== 'boolean') {
      o.fail('patch.forwards_l3', 'give true or false');
    }
  },
};

/** The patch of a decky's configuration. One of the column decky_config is a patch of the fields within it. */
export function unwrapped(patch: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { decky_config, ...rest } = patch;
  return isObject(decky_config) ? { ...rest, ...decky_config } : { ...rest };
}

export const isOpName = (op: string): op is keyof Payloads => Object.hasOwn(readers, op);

/** What is wrong with an op's payload, as far as can be told without the graph; null if nothing is. */
export function validate(op: string, payload: unknown, path = 'payload'): FieldError | null {
  if (!isOpName(op)) {
    const all = Object.keys(readers).sort().join(', ');
    return { field: 'op', problem: `${JSON.stringify(op)} is no op: use one of ${all}` };
  }
  const reader = new Reader(path, payload);
  readers[op](reader);
  return reader.close();
}

/** The edits of a mutation: its own, or those of the changeset; none if it cannot be read. */
export function opsOf(op: string, payload: unknown): readonly Op[] {
  const list = op === 'changeset' && isObject(payload) && Array.isArray(payload.ops) ? payload.ops : [{ op, payload }];
  const all = list.filter((one): one is Op =>
    isObject(one) && typeof one.op === 'string' && validate(one.op, one.payload) === null);
  return all.length === list.length ? all : [];
}
