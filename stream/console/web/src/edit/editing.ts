// The ways into editing: the canvas's intents, the commands, the menus.
import { batch, computed, effect, signal, type ReadonlySignal, type Signal } from '@preact/signals';
import type { Decky, Edge, Graph, Lan } from 'topostream';
import type { Intents, Place } from '../graph/intents.ts';
import type { Point } from '../graph/layout.ts';
import type { Command, Commands } from '../state/commands.ts';
import type { RouteState, Selection } from '../state/route.ts';
import { loadArchetypes, type Archetype } from './archetypes.ts';
import type { Edit } from './edit.ts';
import { duplicates, findDecky, findEdge, findLan, homeOf, paste, removal } from './edits.ts';
import {
  attachForm, deckyForm, gatewayForm, homeForm, lanForm, renameForm, servicesForm, type Form,
} from './forms.ts';
import { deckyNames, lanNames, nextName } from './names.ts';
import type { Op } from './ops.ts';
import { isGateway, stagedId } from './preview.ts';

export interface OpenMenu {
  readonly title: string;
  /** Ids of commands; null is a line between groups. */
  readonly items: readonly (string | null)[];
  /** In CSS pixels of the window. */
  readonly x: number;
  readonly y: number;
}

export interface Editing {
  readonly edit: Edit;
  readonly intents: Intents;
  readonly menu: Signal<OpenMenu | null>;
  /** Where a menu opens that is asked for by key; null while no graph is drawn. */
  readonly menuCorner: Signal<(() => Point) | null>;
  readonly form: Signal<Form | null>;
  /** What the palette offers; a sentence if it could not be loaded; null before. */
  readonly archetypes: ReadonlySignal<readonly Archetype[] | string | null>;
  /** Opens the form for an item of the palette. */
  readonly ask: (item: string) => void;
}

interface Parts {
  readonly route: RouteState;
  readonly commands: Commands;
  readonly edit: Edit;
  readonly editable: ReadonlySignal<true | string>;
}

/** What is selected, as rows of the graph with what is staged. */
interface Selected {
  readonly lans: readonly Lan[];
  readonly deckies: readonly Decky[];
  readonly edges: readonly Edge[];
}

export function createEditing(window: Window & typeof globalThis, { route, commands, edit, editable }: Parts): Editing {
  const { document } = window;
  const menu = signal<OpenMenu | null>(null);
  const menuCorner = signal<(() => Point) | null>(null);
  const form = signal<Form | null>(null);
  const archetypes = signal<readonly Archetype[] | string | null>(null);
  const copied = signal<Graph | null>(null);
  let menuPlace: Place | null = null; // where the menu was asked for

  const selection = (): readonly Selection[] =>
    route.current.value.selection.filter(({ kind }) => kind === 'lan' || kind === 'decky' || kind === 'edge');
  const selected = computed((): Selected => {
    const graph = edit.graph.value;
    const rows = <T>(kind: Selection['kind'], find: (graph: Graph, key: string) => T | undefined): T[] =>
      graph ? selection().flatMap((one) => one.kind === kind && find(graph, one.key) || []) : [];
    return { lans: rows('lan', findLan), deckies: rows('decky', findDecky), edges: rows('edge', findEdge) };
  });

  let loading = false;
  const load = (): void => {
    if (loading) return;
    loading = true;
    loadArchetypes(window).then((list) => { archetypes.value = list; }, (error: unknown) => {
      loading = false;
      const why = error instanceof Error ? error.message : String(error);
      archetypes.value = `the kinds of deckies could not be loaded: ${why}`;
    });
  };
  const kinds = (): readonly Archetype[] => {
    const loaded = archetypes.peek();
    return loaded === null || typeof loaded === 'string' ? [] : loaded;
  };

  const open = (next: Form | null): void => {
    form.value = next;
  };
  const place = (at: Place | null): { x?: number; y?: number } => at
    ? { x: Math.round(at.x), y: Math.round(at.y) } : {};
  const graph = (): Graph => edit.graph.peek() ?? { lans: [], deckies: [], edges: [] };

  const addDecky = (archetype: string, lan: string | null, at: { x?: number; y?: number } = {}): void => {
    open(deckyForm(graph(), kinds(), archetype || (kinds()[0]?.id ?? ''), lan, at));
  };

  /** Stages a decky that was dropped on a LAN: no form is needed. */
  const dropDecky = (kind: Archetype | undefined, lan: Lan, at: Place): void => {
    const services = kind?.services ?? [];
    edit.stage({
      op: 'add_decky',
      payload: {
        name: nextName(kind?.name ?? 'decky', deckyNames(graph())), lan: lan.name,
        ...(services.length && { services: [...services] }), ...(kind && { archetype: kind.id }),
        ...(kind?.forwards_l3 && { forwards_l3: true }), ...place(at),
      },
    });
  };

  const remove = (targets: readonly Selection[]): void => {
    const ops = removal(graph(), targets);
    const home = targets.map(({ kind, key }) => kind === 'edge' ? findEdge(graph(), key) : undefined)
      .find((edge) => edge && !edge.is_bridge);
    if (ops.length && edit.stage(...ops) === true && !home) {
      const gone = new Set(targets.map(({ key }) => key));
      const left = route.current.peek().selection.filter(({ key }) => !gone.has(key) || !key.startsWith(stagedId));
      if (left.length < route.current.peek().selection.length) route.go({ selection: left }, true);
    }
  };

  const intents: Intents = {
    move: (target, to) => void edit.move(target, to),
    connect: (decky, lan) => {
      const [from, to] = [findDecky(graph(), decky), findLan(graph(), lan)];
      if (!from || !to) return;
      if (homeOf(graph(), from)?.id === to.id) {
        edit.notice.value = `${to.name} is the home of ${from.name}: it is in it already, and a home LAN cannot change`;
        return;
      }
      edit.stage({ op: 'attach_decky', payload: { decky: from.name, lan: to.name } });
    },
    rehome: (decky, lan) => {
      const [from, to] = [findDecky(graph(), decky), findLan(graph(), lan)];
      if (from && to) open(homeForm(graph(), from.uuid, to.name));
    },
    drop: (item, at, onto) => {
      const target = findDecky(graph(), onto);
      const lan = findLan(graph(), at.lan) ?? (target && homeOf(graph(), target));
      if (item === 'lan' || item === 'dmz') {
        const isDmz = item === 'dmz';
        const name = isDmz && !lanNames(graph()).includes('dmz') ? 'dmz' : nextName(item, lanNames(graph()));
        const where = lan ? {} : place(at);
        edit.stage({ op: 'add_lan', payload: { name, ...(isDmz && { is_dmz: true }), ...where } });
        return;
      }
      const archetype = item.replace(/^decky:/, '');
      const kind = kinds().find(({ id }) => id === archetype);
      if (editable.peek() !== true) edit.notice.value = editable.peek() as string;
      else if (lan) dropDecky(kind, lan, at);
      else if (!graph().lans.length) edit.notice.value = 'a decky lives in a LAN: add a subnet first';
      else addDecky(archetype, null);
    },
    menu: (targets, at, client) => {
      if (targets.length) route.go({ selection: targets }, true);
      menuPlace = at;
      menu.value = { ...menuOf(targets), x: client.x, y: client.y };
    },
    remove,
  };

  /** The commands that a menu offers for what it was asked about. */
  const menuOf = (targets: readonly Selection[]): { title: string; items: (string | null)[] } => {
    const kindsOf = new Set(targets.map(({ kind }) => kind));
    const [first] = targets;
    if (targets.length > 1) {
      return { title: `${targets.length} selected`, items: ['edit.copy', 'edit.duplicate', null, 'edit.remove'] };
    }
    if (kindsOf.has('decky')) {
      return { title: findDecky(graph(), first?.key)?.name ?? 'Decky', items: [
        'edit.services', 'edit.attach', 'edit.home', 'edit.gateway', null, 'edit.copy', 'edit.duplicate', null,
        'edit.remove',
      ] };
    }
    if (kindsOf.has('lan')) {
      return { title: findLan(graph(), first?.key)?.name ?? 'LAN', items: [
        'edit.add-decky', 'edit.paste', 'edit.rename', null, 'edit.duplicate', null, 'edit.remove',
      ] };
    }
    if (kindsOf.has('edge')) return { title: 'Link', items: ['edit.remove'] };
    return { title: 'Graph', items: [
      'edit.add-lan', 'edit.add-dmz', 'edit.add-decky', 'edit.paste', null, 'edit.select-all', null, 'edit.undo',
      'edit.redo', 'edit.apply',
    ] };
  };

  // ---------------------------------------------------------- commands

  const free = (): true | string => form.value ? 'a dialog is open' : true;
  const able = (...also: (() => true | string)[]) => (): true | string => {
    for (const can of [() => editable.value, free, ...also]) {
      const reason = can();
      if (reason !== true) return reason;
    }
    return true;
  };
  const one = (kind: 'lan' | 'decky') => (): true | string => {
    const count = kind === 'lan' ? selected.value.lans.length : selected.value.deckies.length;
    const what = kind === 'lan' ? 'LAN' : 'decky';
    return count === 1 ? true : count === 0 ? `select a ${what} first` : `select only one ${what}`;
  };
  const any = (): true | string => {
    const { lans, deckies, edges } = selected.value;
    return lans.length + deckies.length + edges.length > 0 ? true : 'select something first';
  };
  const nodes = (): true | string =>
    selected.value.lans.length + selected.value.deckies.length > 0 ? true : 'select a decky or LAN first';
  const hasLan = (): true | string => edit.graph.value?.lans.length ? true : 'there is no LAN yet: add a subnet first';
  const oneDecky = one('decky');
  const hasOps = (): true | string => edit.staged.value.ops.length ? true : 'nothing is staged';
  const detachable = (): true | string => {
    const home = selected.value.edges.find((edge) => !edge.is_bridge);
    const decky = home && edit.graph.value?.deckies.find(({ uuid }) => uuid === home.decky_uuid);
    return home ? `this LAN is the home of ${decky?.name}: it can only be removed as a whole` : true;
  };
  const target = (): Decky => selected.peek().deckies[0]!;
  const gateway = (): boolean => {
    const [decky] = selected.value.deckies;
    return !!decky && !!edit.graph.value && isGateway(edit.graph.value, decky);
  };
  const stage = (ops: readonly Op[]): void => { if (ops.length) edit.stage(...ops); };
  const homeLan = (): string | null => {
    const { lans, deckies } = selected.peek();
    return lans[0]?.name ?? (deckies[0] && homeOf(graph(), deckies[0])?.name) ?? null;
  };
  const group = 'Edit';
  const takePlace = (): { x?: number; y?: number } => {
    const at = menuPlace;
    menuPlace = null;
    return at && !at.lan ? place(at) : {};
  };
  const list: Command[] = [
    { id: 'edit.add-lan', title: 'Add a subnet…', group, keys: 'w', enabled: able(),
      run: () => open(lanForm(graph(), false, takePlace())) },
    { id: 'edit.add-dmz', title: 'Add a DMZ…', group, enabled: able(() => {
      const dmz = edit.graph.value?.lans.find(({ is_dmz }) => is_dmz);
      return dmz ? `LAN ${dmz.name} is the DMZ already: a topology has one` : true;
    }), run: () => open(lanForm(graph(), true, takePlace())) },
    { id: 'edit.add-decky', title: 'Add a decky…', group, keys: 'a', enabled: able(hasLan),
      run: () => addDecky('', homeLan()) },
    { id: 'edit.services', title: 'Services…', group, keys: 's', enabled: able(oneDecky),
      run: () => open(servicesForm(graph(), target().uuid)) },
    { id: 'edit.attach', title: 'Attach to another LAN…', group, keys: 'b', enabled: able(oneDecky),
      run: () => open(attachForm(graph(), target().uuid)) },
    { id: 'edit.home', title: 'Another home…', group, enabled: able(oneDecky),
      run: () => open(homeForm(graph(), target().uuid, null)) },
    { id: 'edit.gateway', get title() { return gateway() ? 'Demote from gateway…' : 'Promote to a gateway…'; },
      group, keys: 'g', enabled: able(oneDecky), run: () => open(gatewayForm(graph(), target().uuid, gateway())) },
    { id: 'edit.rename', title: 'Rename…', group, keys: 'F2', enabled: able(() => selected.value.deckies.length
      ? 'a decky keeps its name: remove it and add another' : true, one('lan')),
      run: () => open(renameForm(graph(), selected.peek().lans[0]!.id)) },
    { id: 'edit.copy', title: 'Copy', group, keys: 'Mod-C', enabled: () => {
      const can = free();
      return can !== true ? can : selected.value.deckies.length ? true : 'select a decky first';
    }, run: () => { copied.value = { ...graph(), deckies: selected.peek().deckies }; } },
    { id: 'edit.paste', title: 'Paste', group, keys: 'Mod-V', enabled: able(() => copied.value
      ? selected.value.lans.length === 1 || selected.value.deckies.length ? true : 'select the LAN to paste into'
      : 'copy a decky first'), run: () => {
      const lan = findLan(graph(), homeLan());
      if (lan && copied.peek()) stage(paste(graph(), copied.peek()!, lan));
    } },
    { id: 'edit.duplicate', title: 'Duplicate', group, keys: 'Mod-D', enabled: able(nodes),
      run: () => stage(duplicates(graph(), selection())) },
    { id: 'edit.remove', get title() {
      const { lans, deckies, edges } = selected.value;
      if (edges.length && !lans.length && !deckies.length) return 'Detach';
      return lans.length ? 'Remove with its members' : 'Remove';
    }, group, keys: 'Delete', enabled: able(any, detachable), run: () => remove(selection()) },
    { id: 'edit.select-all', title: 'Select all', group, keys: 'Mod-A', enabled: () => {
      const can = free();
      return can !== true ? can : edit.graph.value ? true : 'nothing is open';
    }, run: () => {
      const { lans, deckies } = graph();
      route.go({ selection: [...lans.map(({ id }) => ({ kind: 'lan' as const, key: id })),
        ...deckies.map(({ uuid }) => ({ kind: 'decky' as const, key: uuid }))] }, true);
    } },
    { id: 'edit.undo', title: 'Undo', group, keys: 'Mod-Z',
      enabled: able(() => edit.staged.value.past.length ? true : 'there is nothing to undo'), run: edit.undo },
    { id: 'edit.redo', title: 'Redo', group, keys: 'Mod-Y', also: 'Mod-Shift-Z',
      enabled: able(() => edit.staged.value.future.length ? true : 'there is nothing to redo'), run: edit.redo },
    { id: 'edit.discard', title: 'Discard what is staged', group, enabled: able(hasOps), run: edit.discard },
    { id: 'edit.rebase', title: 'Rebase what is staged', group, enabled: able(hasOps), run: edit.rebase },
    { id: 'edit.apply', title: 'Apply what is staged', group, keys: 'Mod-Enter', enabled: able(hasOps, () =>
      edit.sending.value.state === 'sending' || edit.sending.value.state === 'waiting' ? 'it is being applied' : true),
      run: () => void edit.apply() },
    { id: 'edit.menu', title: 'Menu of what is selected', group, keys: 'Shift-F10', enabled: able(), run: () => {
      const box = document.querySelector('main')?.getBoundingClientRect();
      const middle = box ? { x: box.left + box.width / 2, y: box.top + box.height / 3 } : { x: 0, y: 0 };
      menuPlace = null;
      menu.value = { ...menuOf(selection()), ...menuCorner.peek()?.() ?? middle };
    } },
  ];
  commands.add(...list);
  effect(() => { if (editable.value === true) load(); });
  const topology = computed(() => route.current.value.topology);
  effect(() => { // a form or a menu is about one topology: Back may lead to another
    void topology.value;
    batch(() => {
      form.value = null;
      menu.value = null;
    });
  });

  const ask = (item: string): void => {
    if (item === 'lan' || item === 'dmz') commands.run(`edit.add-${item}`);
    else if (editable.peek() !== true) edit.notice.value = editable.peek() as string;
    else if (!graph().lans.length) edit.notice.value = 'a decky lives in a LAN: add a subnet first';
    else addDecky(item.replace(/^decky:/, ''), homeLan());
  };
  return { edit, intents, menu, menuCorner, form, archetypes, ask };
}
