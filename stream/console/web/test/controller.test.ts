import { signal } from '@preact/signals';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { Graph } from 'topostream';
import type { App } from '../src/app.ts';
import { GraphController } from '../src/graph/controller.ts';
import { itemType, type Intents } from '../src/graph/intents.ts';
import { createCommands } from '../src/state/commands.ts';
import { createFrames } from '../src/state/frames.ts';
import type { Route } from '../src/state/route.ts';
import type { View } from '../src/state/view.ts';

const t = { topology_id: 't' };
const graph: Graph = {
  lans: [
    { ...t, id: 'A', name: 'a', subnet: '10.0.0.0/24', is_dmz: false, x: 0, y: 0 },
    { ...t, id: 'B', name: 'b', subnet: '10.0.1.0/24', is_dmz: false, x: 400, y: 0 },
  ],
  deckies: [{
    ...t, uuid: 'W', name: 'web', services: [], decky_config: {}, ip: null, state: 'running', x: 16, y: 48,
  }],
  edges: [{ ...t, id: 'E', decky_uuid: 'W', lan_id: 'A', ip: null, is_bridge: false, forwards_l3: false }],
};
const view: View = {
  id: 't', seq: 1, status: 'active', reason: null, version: 1, graph, in_flight: [], in_flight_total: 0, at: null,
};

/** The canvas of 1000 × 600 at zoom 1 with its corner at 0, 0; what it tells; and what the address has. */
function setUp(editable: true | string = true, role: 'admin' | 'viewer' = 'admin') {
  const told: unknown[][] = [];
  const tell = (name: string) => (...args: unknown[]): void => void told.push([name, ...args]);
  const intents = { move: tell('move'), connect: tell('connect'), rehome: tell('rehome'), drop: tell('drop'),
    menu: tell('menu'), remove: tell('remove') } as Intents;
  const current = signal({ topology: 't', selection: [] } as unknown as Route);
  const app = {
    frames: createFrames(window),
    shown: signal(view), ghosts: signal([]), intents, past: signal(null), editable: signal(editable),
    session: { role: signal(role) }, commands: createCommands(() => undefined),
    route: { current, go: (change: Partial<Route>) => { current.value = { ...current.peek(), ...change }; } },
  } as unknown as App;
  const canvas = document.createElement('canvas');
  document.body.append(canvas);
  // A context that draws nothing; text is 6 pixels a character.
  const context = new Proxy({}, {
    get: (_, name) => name === 'measureText' ? (text: string) => ({ width: 6 * text.length }) : name === 'font' ? ''
      : () => undefined,
    set: () => true,
  });
  Object.assign(canvas, { getContext: () => context, setPointerCapture() {} });
  Object.defineProperties(canvas, { clientWidth: { value: 1000 }, clientHeight: { value: 600 } });
  canvas.getBoundingClientRect = () => new DOMRect(0, 0, 1000, 600);
  const controller = new GraphController(app, canvas);
  vi.advanceTimersByTime(50);
  const box = controller.onScreen('lan:A')!;
  const zoom = controller.zoom.peek();
  /** From pixels at zoom 1 to those of the window. */
  const at = (x: number, y: number) => ({ clientX: box.x + x * zoom, clientY: box.y + y * zoom });
  const pointer = (type: string, x: number, y: number, more: object = {}): void => {
    canvas.dispatchEvent(new PointerEvent(type, { ...at(x, y), bubbles: true, isPrimary: true, button: 0, ...more }));
  };
  const drag = (x: number, y: number, toX: number, toY: number, more: object = {}): void => {
    pointer('pointermove', x, y);
    pointer('pointerdown', x, y, { buttons: 1, ...more });
    pointer('pointermove', (x + toX) / 2, (y + toY) / 2, { buttons: 1, ...more });
    pointer('pointermove', toX, toY, { buttons: 1, ...more });
    pointer('pointerup', toX, toY, more);
  };
  const key = (name: string, more: object = {}): void => {
    canvas.dispatchEvent(new KeyboardEvent('keydown', { key: name, bubbles: true, cancelable: true, ...more }));
  };
  const selected = (): string[] => current.peek().selection.map((s) => `${s.kind}:${s.key}`);
  return { app, canvas, controller, told, at, pointer, drag, key, selected, zoom };
}

beforeEach(() => {
  vi.useFakeTimers();
  vi.stubGlobal('ResizeObserver', class {
    constructor(private readonly changed: () => void) {}
    observe(): void { this.changed(); }
    disconnect(): void {}
  });
});
afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
  document.body.replaceChildren();
});

test('a decky that is dragged is wanted at its new place in its LAN', () => {
  const { drag, told, controller } = setUp();
  drag(88, 76, 128, 92);
  expect(told).toEqual([['move', { kind: 'decky', key: 'W' }, { x: 56, y: 64 }]]);
  vi.advanceTimersByTime(50);
  expect(controller.scene.peek().items.get('decky:W')).toMatchObject({ x: 56, y: 64 });
  vi.advanceTimersByTime(5000); // nobody took it up
  expect(controller.scene.peek().items.get('decky:W')).toMatchObject({ x: 16, y: 48 });
});

test('a decky that is dropped on another LAN goes back, and what may be done instead is asked', () => {
  const { drag, told, controller } = setUp();
  drag(88, 76, 500, 60);
  expect(told).toEqual([['rehome', 'web', 'b']]);
  vi.advanceTimersByTime(50);
  expect(controller.scene.peek().items.get('decky:W')).toMatchObject({ x: 16, y: 48 });
  expect(controller.hasMoved.peek()).toBe(false);
});

test('who may only look moves a decky over another LAN, in the tab alone', () => {
  const { drag, told, controller } = setUp('may only look', 'viewer');
  drag(88, 76, 500, 60);
  vi.advanceTimersByTime(50);
  expect(told).toEqual([]);
  expect(controller.hasMoved.peek()).toBe(true);
});

test('a LAN is dragged by its header, and its body drags the view', () => {
  const { drag, told, controller } = setUp();
  drag(100, 10, 100, 90);
  expect(told).toEqual([['move', { kind: 'lan', key: 'A' }, { x: 0, y: 80 }]]);
  told.length = 0;
  drag(20, 200, 60, 240);
  expect(told).toEqual([]);
  expect(controller.hasMoved.peek()).toBe(true);
});

test('a viewer’s move is told to nobody and stays', () => {
  const { drag, told, controller } = setUp('may only look', 'viewer');
  drag(88, 76, 128, 92);
  vi.advanceTimersByTime(60_000);
  expect(told).toEqual([]);
  expect(controller.scene.peek().items.get('decky:W')).toMatchObject({ x: 56, y: 64 });
});

test('where nothing can be edited an admin moves nothing', () => {
  const { drag, told, controller, key, selected, pointer } = setUp('it is pending');
  drag(88, 76, 128, 92);
  pointer('pointerdown', 88, 76);
  pointer('pointerup', 88, 76);
  expect(selected()).toEqual(['decky:W']);
  key('Delete');
  expect(told).toEqual([]);
  expect(controller.hasMoved.peek()).toBe(false);
});

test('a port that is dragged onto a LAN connects', () => {
  const { drag, told, pointer } = setUp();
  pointer('pointermove', 100, 76);
  drag(16 + 144, 48 + 28, 500, 60);
  expect(told).toEqual([['connect', 'web', 'b']]);
});

test('click selects, Shift adds, a marquee adds, a click on nothing clears, Delete wants it removed', () => {
  const { pointer, drag, selected, told, key } = setUp();
  const click = (x: number, y: number, more = {}): void => {
    pointer('pointerdown', x, y, more);
    pointer('pointerup', x, y, more);
  };
  click(500, 80);
  expect(selected()).toEqual(['lan:B']);
  click(88, 76, { ctrlKey: true });
  expect(selected()).toEqual(['lan:B', 'decky:W']);
  key('Delete');
  expect(told).toEqual([['remove', [{ kind: 'lan', key: 'B' }, { kind: 'decky', key: 'W' }]]]);
  click(360, 60);
  expect(selected()).toEqual([]);
  drag(10, 40, 30, 60, { shiftKey: true });
  expect(selected()).toEqual(['decky:W']);
});

test('what is dropped is told with its LAN, the place in it, and the decky beneath', () => {
  const { canvas, at, told } = setUp();
  const drop = (x: number, y: number): void => {
    const event = Object.assign(new MouseEvent('drop', { ...at(x, y), bubbles: true, cancelable: true }), {
      dataTransfer: { types: [itemType], getData: () => 'ssh-server' },
    });
    canvas.dispatchEvent(event);
  };
  drop(500, 80);
  drop(88, 76);
  drop(20, 500);
  expect(told).toEqual([
    ['drop', 'ssh-server', { x: 100, y: 80, lan: 'b' }, null],
    ['drop', 'ssh-server', { x: 88, y: 76, lan: 'a' }, 'web'],
    ['drop', 'ssh-server', { x: 20, y: 500, lan: null }, null],
  ]);
});

test('a context menu is for what is beneath the pointer, or for all that is selected', () => {
  const { canvas, at, told, selected } = setUp();
  const menu = (x: number, y: number): void => {
    canvas.dispatchEvent(new MouseEvent('contextmenu', { ...at(x, y), bubbles: true, cancelable: true }));
  };
  menu(88, 76);
  expect(selected()).toEqual(['decky:W']);
  expect(told[0]!.slice(0, 3)).toEqual(['menu', [{ kind: 'decky', key: 'W' }], { x: 88, y: 76, lan: 'a' }]);
  menu(360, 300);
  expect(told[1]!.slice(0, 3)).toEqual(['menu', [], { x: 360, y: 300, lan: null }]);
});
