// What is staged: edits in their order, what was undone, and how two edits of one thing become one.
import type { Graph } from 'topostream';
import { maxChangeset, unwrapped, validate, type Op } from './ops.ts';
import { differences } from './inverse.ts';
import { preview } from './preview.ts';

type Ops = readonly Op[];

export interface Staged {
  readonly ops: Ops;
  /** What undo goes back to, the newest last; what redo goes on to, the next last. */
  readonly past: readonly Ops[];
  readonly future: readonly Ops[];
}

export const nothing: Staged = { ops: [], past: [], future: [] };

/** Puts other ops in place of those that are staged, as one step of undo. */
export function replace(staged: Staged, ops: Ops): Staged {
  return { ops, past: [...staged.past, staged.ops], future: [] };
}

export function undo({ ops, past, future }: Staged): Staged {
  const before = past.at(-1);
  return before ? { ops: before, past: past.slice(0, -1), future: [...future, ops] } : { ops, past, future };
}

export function redo({ ops, past, future }: Staged): Staged {
  const next = future.at(-1);
  return next ? { ops: next, past: [...past, ops], future: future.slice(0, -1) } : { ops, past, future };
}

/** Stages edits of a graph as one step, or says why that cannot be. */
export function stage(staged: Staged, graph: Graph, ...more: Ops): Staged | string {
  for (const { op, payload } of more) {
    const error = validate(op, payload, '');
    if (error) return `${error.field}: ${error.problem}`;
  }
  const { refused } = preview(graph, [...staged.ops, ...more]);
  const reason = refused.slice(staged.ops.length).find((text) => text !== null);
  if (reason) return reason;
  const ops = more.reduce<Ops>((all, op) => join(graph, all, op), staged.ops);
  if (ops.length > maxChangeset) return `a change set holds at most ${maxChangeset} edits: apply what is staged first`;
  return replace(staged, ops);
}

/** Takes one edit back, and with it those that cannot be done without it. */
export function unstage(staged: Staged, graph: Graph, index: number): Staged {
  const gone = staged.ops[index];
  if (!gone) return staged;
  const rest = [...staged.ops.slice(0, index), ...undoRename(gone, staged.ops.slice(index + 1))];
  const before = preview(graph, staged.ops).refused.filter((_, i) => i !== index);
  const after = preview(graph, rest).refused;
  return replace(staged, rest.filter((_, i) => after[i] === null || before[i] !== null));
}

function undoRename(op: Op, later: Ops): Ops {
  const to = op.op === 'update_lan' ? op.payload.patch?.name : undefined;
  return op.op === 'update_lan' && to !== undefined ? renameLan(later, to, op.payload.name) : later;
}

/** The LAN and the decky that an op is about. */
export function subjectsOf(op: Op): { readonly lan?: string; readonly decky?: string } {
  switch (op.op) {
    case 'add_lan': case 'remove_lan': case 'update_lan': return { lan: op.payload.name };
    case 'add_decky': return { decky: op.payload.name, lan: op.payload.lan };
    case 'attach_decky': case 'detach_decky': return op.payload;
    case 'remove_decky': case 'update_decky': return { decky: op.payload.decky };
  }
}

/** The op with another name for its LAN. */
export function withLan(op: Op, name: string): Op {
  switch (op.op) {
    case 'add_lan': return { op: op.op, payload: { ...op.payload, name } };
    case 'remove_lan': return { op: op.op, payload: { name } };
    case 'update_lan': return { op: op.op, payload: { ...op.payload, name } };
    case 'add_decky': return { op: op.op, payload: { ...op.payload, lan: name } };
    case 'attach_decky': return { op: op.op, payload: { ...op.payload, lan: name } };
    case 'detach_decky': return { op: op.op, payload: { ...op.payload, lan: name } };
    case 'remove_decky': case 'update_decky': return op;
  }
}

const renameLan = (ops: Ops, from: string, to: string): Ops =>
  ops.map((op) => subjectsOf(op).lan === from ? withLan(op, to) : op);

/**
 * Adds an edit, merged with an earlier one where the result is the same. The preview decides whether it is, so a rule
 * below that is wrong about an odd case does no harm. Addresses that the server chooses may differ.
 */
function join(graph: Graph, ops: Ops, op: Op): Ops {
  const plain = [...ops, op];
  const short = simplified(ops, op);
  if (!short) return plain;
  const [want, got] = [preview(graph, plain), preview(graph, short)];
  const refusals = (reasons: readonly (string | null)[]): number => reasons.filter((text) => text !== null).length;
  const chosen = ['subnet', 'ip'];
  const differ = (a: Graph, b: Graph): boolean => differences(a, b, chosen).length > 0;
  const equal = !differ(got.graph, want.graph) && !differ(want.graph, got.graph);
  return equal && refusals(got.refused) <= refusals(want.refused) ? withoutIdle(graph, short, op) : plain;
}

/** Leaves out the updates of the op's row that change nothing, because a later one took them back. */
function withoutIdle(graph: Graph, ops: Ops, { op: kind, payload }: Op): Ops {
  if (kind !== 'update_decky' && kind !== 'update_lan') return ops;
  const whole = preview(graph, ops).graph;
  const subject = (one: Op): string | undefined => one.op === 'update_lan' ? one.payload.name
    : one.op === 'update_decky' ? one.payload.decky : undefined;
  return ops.filter((op, i) => {
    if (op.op !== kind || subject(op) !== subject({ op: kind, payload } as Op)) return true;
    if (op.op === 'update_lan' && op.payload.patch?.name !== undefined) return true;
    const without = preview(graph, ops.filter((_, j) => j !== i)).graph;
    return differences(without, whole).length + differences(whole, without).length > 0;
  });
}

/** The ops with one more, merged into fewer; null where nothing merges. */
function simplified(ops: Ops, op: Op): Ops | null {
  switch (op.op) {
    case 'update_decky': return updateDecky(ops, op);
    case 'update_lan': return updateLan(ops, op);
    case 'remove_decky': {
      const { decky } = op.payload;
      const added = ops.findLastIndex((one) => one.op === 'add_decky' && one.payload.name === decky);
      const removed = ops.findLastIndex((one) => one.op === 'remove_decky' && one.payload.decky === decky);
      const from = Math.max(added, removed + 1);
      const kept = ops.filter((one, i) => i < from || subjectsOf(one).decky !== decky);
      return added > removed ? kept : [...kept, op];
    }
    case 'remove_lan': return removeLan(ops, op);
    case 'attach_decky': case 'detach_decky': {
      const opposite = op.op === 'attach_decky' ? 'detach_decky' : 'attach_decky';
      const { decky, lan } = op.payload;
      const index = ops.findLastIndex((one) => {
        const of = subjectsOf(one);
        return of.decky === decky && of.lan === lan && (one.op === 'attach_decky' || one.op === 'detach_decky');
      });
      return ops[index]?.op === opposite ? ops.filter((_, i) => i !== index) : null;
    }
    default: return null;
  }
}

type UpdateDecky = Extract<Op, { op: 'update_decky' }>;

function updateDecky(ops: Ops, { payload }: UpdateDecky): Ops | null {
  const index = ops.findLastIndex((one) => subjectsOf(one).decky === payload.decky &&
    (one.op === 'add_decky' || one.op === 'update_decky' || one.op === 'remove_decky'));
  const earlier = ops[index];
  if (earlier?.op === 'update_decky') {
    const patch = { ...unwrapped(earlier.payload.patch ?? {}), ...unwrapped(payload.patch ?? {}) };
    const joined = { ...earlier.payload, ...payload, ...(Object.keys(patch).length > 0 && { patch }) };
    return ops.with(index, { op: 'update_decky', payload: joined });
  }
  if (earlier?.op !== 'add_decky') return null;
  const { archetype, forwards_l3, ...patch } = unwrapped(payload.patch ?? {});
  if (archetype === null || forwards_l3 === null) return null;
  const { services, x, y } = payload;
  const added: Op = {
    op: 'add_decky',
    payload: {
      ...earlier.payload, ...(services && { services }), ...(x !== undefined && { x }), ...(y !== undefined && { y }),
      ...(typeof archetype === 'string' && { archetype }), ...(typeof forwards_l3 === 'boolean' && { forwards_l3 }),
    },
  };
  const rest: Ops = Object.keys(patch).length
    ? [{ op: 'update_decky', payload: { decky: payload.decky, patch } }]
    : [];
  return [...ops.with(index, added), ...rest];
}

type UpdateLan = Extract<Op, { op: 'update_lan' }>;

/** An update of a LAN in its shorter form: with a patch only where there is a new name. */
function lanUpdate(name: string, { name: to = name, x, y }: { name?: string; x?: number; y?: number }): Op {
  const place = { ...(x !== undefined && { x }), ...(y !== undefined && { y }) };
  return { op: 'update_lan', payload: to === name ? { name, ...place } : { name, patch: { name: to, ...place } } };
}

function updateLan(ops: Ops, { payload: { name, patch, ...place } }: UpdateLan): Ops | null {
  const change = { ...place, ...patch };
  const to = change.name ?? name;
  // The newest op that added, renamed, moved or removed the LAN of this name.
  const index = ops.findLastIndex((one) => one.op === 'update_lan'
    ? (one.payload.patch?.name ?? one.payload.name) === name
    : (one.op === 'add_lan' || one.op === 'remove_lan') && one.payload.name === name);
  const earlier = ops[index];
  if (earlier?.op !== 'add_lan' && earlier?.op !== 'update_lan') return null;
  const rest = renameLan(ops.slice(index + 1), name, to);
  const joined: Op = earlier.op === 'add_lan'
    ? { op: 'add_lan', payload: { ...earlier.payload, ...change } }
    : lanUpdate(earlier.payload.name, { ...earlier.payload, ...earlier.payload.patch, ...change, name: to });
  const idle = joined.op === 'update_lan' && Object.keys(joined.payload).length === 1;
  return [...ops.slice(0, index), ...(idle ? [] : [joined]), ...rest];
}

function removeLan(ops: Ops, op: Extract<Op, { op: 'remove_lan' }>): Ops {
  const { name } = op.payload;
  const removed = ops.findLastIndex((one) => one.op === 'remove_lan' && one.payload.name === name);
  const origin = ops.findLastIndex((one, i) => i > removed && (one.op === 'add_lan' && one.payload.name === name ||
    one.op === 'update_lan' && one.payload.patch?.name === name));
  const made = ops[origin];
  const from = Math.max(origin, removed + 1);
  const kept = ops.filter((one, i) => i < from || subjectsOf(one).lan !== name && i !== origin);
  if (made?.op === 'add_lan') return kept;
  return [...kept, made?.op === 'update_lan' ? { op: 'remove_lan', payload: { name: made.payload.name } } : op];
}
