// What is staged, over what others have changed since.
import type { Decky, Graph } from 'topostream';
import { keyed, lanId, same, uuidOf } from './inverse.ts';
import type { Op } from './ops.ts';
import { preview, quote, trial } from './preview.ts';
import { subjectsOf, withLan } from './staged.ts';

export interface Outcome {
  /** The op as it has to be now: with a LAN's new name, for example. */
  readonly op: Op;
  readonly state: 'valid' | 'changed' | 'conflict';
  /** What others changed, or why it cannot be done any more; null where it is valid. */
  readonly reason: string | null;
}

/** Compares staged ops with the graph now. `base` is the graph that they were made for. One outcome for each op. */
export function rebase(base: Graph, head: Graph, ops: readonly Op[]): readonly Outcome[] {
  if (base === head) {
    const { refused } = preview(head, ops);
    return ops.map((op, i) => ({ op, state: refused[i] ? 'conflict' : 'valid', reason: refused[i] ?? null }));
  }
  // What a name in the ops stands for: the id of a row that was there, or null for one that an op has staged.
  const lans = new Map<string, string | null>(base.lans.map((lan) => [lan.name, lan.id]));
  const deckies = new Map<string, string | null>(base.deckies.map((decky) => [decky.name, decky.uuid]));
  const renamed = new Map<string, string>(); // LANs that a staged op has renamed: their new names, by id
  const before = keyed(base.deckies, uuidOf);
  const now = { lans: keyed(head.lans, lanId), deckies: keyed(head.deckies, uuidOf) };
  const on = trial(head);
  return ops.map((original): Outcome => {
    const notes: string[] = [];
    const lanBefore = subjectsOf(original).lan;
    const made = original.op === 'add_lan' || original.op === 'add_decky';
    let op = original;
    let gone: string | null = null;

    const lanRow = original.op === 'add_lan' || lanBefore === undefined ? null : lans.get(lanBefore);
    if (lanRow && lanBefore !== undefined) {
      const is = now.lans.get(lanRow);
      if (!is) gone = `LAN ${quote(lanBefore)} was removed meanwhile`;
      else {
        const name = renamed.get(lanRow) ?? is.name;
        if (name !== lanBefore) {
          op = withLan(op, name);
          notes.push(`LAN ${quote(lanBefore)} is ${quote(name)} now`);
        }
      }
    }
    const deckyBefore = original.op === 'add_decky' ? undefined : subjectsOf(original).decky;
    const deckyRow = deckyBefore === undefined ? null : deckies.get(deckyBefore);
    if (deckyRow && deckyBefore !== undefined) {
      const [was, is] = [before.get(deckyRow), now.deckies.get(deckyRow)];
      if (!is) gone ??= `decky ${quote(deckyBefore)} was removed meanwhile`;
      else {
        if (is.name !== deckyBefore) {
          op = { ...op, payload: { ...op.payload, decky: is.name } } as Op;
          notes.push(`decky ${quote(deckyBefore)} is ${quote(is.name)} now`);
        }
        if (was && /^(update|remove)_decky$/.test(original.op)) notes.push(...changesOfDecky(was, is));
      }
    }
    const reason = gone ?? on.run(op);
    // Names as the next ops mean them, also where this op cannot be done: those that need it are then refused, too.
    if (original.op === 'add_lan') lans.set(original.payload.name, null);
    if (original.op === 'add_decky') deckies.set(original.payload.name, null);
    if (original.op === 'update_lan' && original.payload.patch?.name !== undefined && lanRow !== undefined) {
      const to = original.payload.patch.name;
      lans.delete(original.payload.name);
      lans.set(to, lanRow);
      if (lanRow && reason === null) renamed.set(lanRow, to);
    }
    if (reason !== null) return { op, state: 'conflict', reason };
    const changed = !made || op !== original ? notes : [];
    return changed.length
      ? { op, state: 'changed', reason: changed.join('; ') }
      : { op, state: 'valid', reason: null };
  });
}

function changesOfDecky(was: Decky, is: Decky): string[] {
  const words = (value: unknown): string => Array.isArray(value) && value.length ? value.join(', ') : 'none';
  const notes: string[] = [];
  if (!same(was.services, is.services)) {
    notes.push(`its services were changed meanwhile: ${words(was.services)} → ${words(is.services)}`);
  }
  if (!same(was.decky_config, is.decky_config)) notes.push('its configuration was changed meanwhile');
  if (was.ip !== is.ip) notes.push(`its address was changed meanwhile: ${was.ip ?? 'none'} → ${is.ip ?? 'none'}`);
  return notes;
}
