// The canvas: it draws what is shown when something has changed, and turns pointer and keys into selections and
// intents. What may be edited, and how, it does not know.
import { effect, signal, type Signal } from '@preact/signals';
import { select } from 'd3-selection';
import type { Graph, Mutation } from 'topostream';
import { zoom, zoomIdentity, type ZoomBehavior, type ZoomTransform } from 'd3-zoom';
import type { App } from '../app.ts';
import type { Selection } from '../state/route.ts';
import { changedItems } from './diff.ts';
import { draw, portOf, themeOf, type Camera, type Picture, type Theme } from './draw.ts';
import type { Ghost } from './ghost.ts';
import { contains, neighbour, SceneIndex, type Direction } from './hit.ts';
import { ghostsOf } from './inflight.ts';
import { itemType, type Place } from './intents.ts';
import { size, type Box, type Point, type Remembered } from './layout.ts';
import { levelAt } from './level.ts';
import {
  connectedTo, noScene, patched, sceneOf, type Scene, type SceneDecky, type SceneItem, type SceneNode,
} from './scene.ts';

const flashTime = 120; // milliseconds
const zooms: [number, number] = [0.02, 3];

type Gesture =
  | { readonly kind: 'click'; readonly from: Point; readonly id: string | null; readonly draggable: boolean }
  | { readonly kind: 'drag'; readonly from: Point; readonly ids: ReadonlySet<string> }
  | { readonly kind: 'wire'; readonly from: Point; readonly decky: SceneDecky }
  | { readonly kind: 'marquee'; readonly from: Point; readonly add: boolean };

/** Where something was dropped in this tab, and what place its row had then. */
interface Moved extends Point {
  readonly wasX: number | null;
  readonly wasY: number | null;
}

const selectionOf = ({ kind, key }: { kind: SceneItem['kind']; key: string }): Selection => ({ kind, key });
export const idOf = ({ kind, key }: Selection): string => `${kind}:${key}`;

export class GraphController {
  /** The scene as it was last drawn. */
  readonly scene: Signal<Scene> = signal(noScene);
  /** The id of what the keyboard is on. */
  readonly cursor: Signal<string | null> = signal(null);
  readonly dim = signal(false);
  readonly unhealthyOnly = signal(false);
  readonly zoom = signal(1);
  /** Whether something stands where it was moved in this tab, and not where its row says. */
  readonly hasMoved = signal(false);

  /** For tests: how often each of the 500 newest items that changed has flashed, and in how many frames. */
  readonly flashed = new Map<string, { times: number; frames: number }>();
  /** For tests: of the 600 newest frames the milliseconds that making the scene took, and drawing it. */
  readonly costs: (readonly [number, number])[] = [];
  /** For tests, counts: drawings, those within a frame that was drawn already, scenes made, indexes built anew. */
  readonly work = { draws: 0, again: 0, scenes: 0, indexes: 0 };

  readonly #app: App;
  readonly #canvas: HTMLCanvasElement;
  readonly #ctx: CanvasRenderingContext2D;
  readonly #zoom: ZoomBehavior<HTMLCanvasElement, unknown>;
  readonly #ends: (() => void)[] = [];
  #theme: Theme;
  #camera: Camera = { k: 1, x: 0, y: 0 };
  #width = 0;
  #height = 0;
  #stale = true; // the scene is older than what it is made of
  #drawn = 0; // the timestamp of the newest frame that was drawn
  #topology: string | null = null;
  #fitted = false;
  #remembered: Remembered = new Map();
  #moved = new Map<string, Moved>();
  #moves = 0; // counts the changes of #moved
  /** What the scene was made of. */
  #made: { graph: Graph; ghosts: readonly Ghost[]; flight: readonly Mutation[]; moved: number } | null = null;
  #index = new SceneIndex(noScene);
  #flashes = new Map<string, number>(); // id → when it began
  #gesture: Gesture | null = null;
  #pointer: Point = { x: 0, y: 0 };
  #hover: string | null = null;
  #brightFor: { scene: Scene; key: string; set: ReadonlySet<string> | null } | null = null;

  constructor(app: App, canvas: HTMLCanvasElement) {
    this.#app = app;
    this.#canvas = canvas;
    this.#ctx = canvas.getContext('2d', { alpha: false })!;
    this.#theme = themeOf(canvas);
    this.#zoom = zoom<HTMLCanvasElement, unknown>()
      .scaleExtent(zooms)
      // Mouse and touch events come after pointer events: what #down has taken as a drag does not move the view.
      .filter((event: MouseEvent | TouchEvent) => event.type === 'wheel'
        || ('touches' in event ? !this.#takesDrag()
          : event.button === 1 || (event.button === 0 && !event.shiftKey && !this.#takesDrag())))
      .on('zoom', ({ transform }: { transform: ZoomTransform }) => {
        this.#camera = { k: transform.k, x: transform.x, y: transform.y };
        this.zoom.value = transform.k;
        this.request();
      });
    select(canvas).call(this.#zoom).on('dblclick.zoom', null);
    this.#listen();
    this.#ends.push(effect(() => {
      void app.shown.value;
      void app.ghosts.value;
      this.#stale = true;
      this.request();
    }), effect(() => {
      void app.route.current.value;
      void this.dim.value;
      void this.unhealthyOnly.value;
      void this.cursor.value;
      void app.editable.value;
      this.request();
    }));
  }

  end(): void {
    for (const end of this.#ends) end();
    this.#app.frames.cancel(this.#onFrame);
    select(this.#canvas).on('.zoom', null);
  }

  // ---------------------------------------------------------- drawing

  /** Asks for a frame; without a change none is drawn. */
  request(): void {
    this.#app.frames.draw(this.#onFrame);
  }

  readonly #fade = (): void => this.request();

  readonly #onFrame = (now: number): void => {
    const began = performance.now();
    if (this.#stale) this.#build(now);
    const built = performance.now();
    this.work.draws++;
    if (now === this.#drawn) this.work.again++;
    this.#drawn = now;
    this.#draw(now);
    this.costs.push([built - began, performance.now() - built]);
    if (this.costs.length > 600) this.costs.shift();
  };

  #build(now: number): void {
    this.#stale = false;
    this.work.scenes++;
    const shown = this.#app.shown.peek();
    const id = shown?.id ?? this.#app.route.current.peek().topology;
    if (id !== this.#topology) {
      this.#topology = id;
      this.#remembered = new Map();
      this.#moved.clear();
      this.hasMoved.value = false;
      this.#fitted = false;
      this.#flashes.clear();
      this.cursor.value = null;
      this.scene.value = noScene;
    }
    if (!shown) {
      this.#index = new SceneIndex(this.scene.value = noScene);
      return;
    }
    this.#forgetOvertaken(shown.graph);
    const before = this.scene.peek();
    const made = { graph: shown.graph, ghosts: this.#app.ghosts.peek(), flight: shown.in_flight, moved: this.#moves };
    const was = this.#made;
    const alike = before !== noScene && was && was.ghosts === made.ghosts && was.flight === made.flight
      && was.moved === made.moved;
    let scene = alike ? patched(before, was.graph, made.graph) : null;
    this.#made = made;
    if (scene) {
      this.#index = new SceneIndex(scene, this.#index);
    } else {
      const ghosts = [...made.ghosts, ...ghostsOf(made.graph, made.flight)];
      const result = sceneOf(made.graph, ghosts, this.#moved, this.#remembered);
      this.#remembered = result.remembered;
      scene = result.scene;
      this.work.indexes++;
      this.#index = new SceneIndex(scene);
    }
    const first = before === noScene;
    if (!first && !matchMedia('(prefers-reduced-motion: reduce)').matches) {
      for (const changed of changedItems(before, scene)) this.#flash(changed, now);
    }
    this.scene.value = scene;
    if (this.cursor.peek() && !scene.items.has(this.cursor.peek()!)) this.cursor.value = null;
    if (!this.#fitted && this.#width > 0) {
      this.#fitted = true;
      this.fit();
    }
  }

  #flash(id: string, now: number): void {
    this.#flashes.set(id, now);
    const had = this.flashed.get(id);
    this.flashed.delete(id); // the newest are last
    this.flashed.set(id, { times: (had?.times ?? 0) + 1, frames: had?.frames ?? 0 });
    if (this.flashed.size > 500) this.flashed.delete(this.flashed.keys().next().value!);
  }

  /** Whether something still shows that it changed. */
  get flashing(): boolean { return this.#flashes.size > 0; }

  /** Forgets a move of this tab once its row has another place than then: the move was applied, or another one was. */
  #forgetOvertaken(graph: { lans: readonly Row[]; deckies: readonly Row[] }): void {
    if (!this.#moved.size) return;
    const rows = new Map<string, Row>();
    for (const row of graph.lans) rows.set('lan:' + row.id, row);
    for (const row of graph.deckies) rows.set('decky:' + row.uuid, row);
    for (const [id, { wasX, wasY }] of this.#moved) {
      const row = rows.get(id);
      if (!row || row.x !== wasX || row.y !== wasY) {
        this.#moved.delete(id);
        this.#moves++;
      }
    }
    this.hasMoved.value = this.#moved.size > 0;
  }

  forgetMoves(): void {
    this.#moved.clear();
    this.#afterMoves();
  }

  #afterMoves(): void {
    this.#moves++;
    this.hasMoved.value = this.#moved.size > 0;
    this.#stale = true;
    this.request();
  }

  #picture(now: number): Picture {
    const gesture = this.#gesture;
    const flashes = new Map<string, number>();
    for (const [id, began] of this.#flashes) {
      const left = 1 - (now - began) / flashTime;
      if (left > 0) flashes.set(id, left);
      else this.#flashes.delete(id);
    }
    const scene = this.scene.peek();
    const selected = new Set(this.#app.route.current.peek().selection.map(idOf));
    const at = this.#world(this.#pointer);
    return {
      scene, index: this.#index, camera: this.#camera, width: this.#width, height: this.#height, theme: this.#theme,
      selected, cursor: this.cursor.peek(), hover: this.#hover, bright: this.#bright(scene, selected),
      unhealthyOnly: this.unhealthyOnly.peek(), flashes,
      dragged: gesture?.kind === 'drag' ? gesture.ids : new Set(),
      offset: gesture?.kind === 'drag' ? this.#dragOffset(gesture.from) : { x: 0, y: 0 },
      marquee: gesture?.kind === 'marquee' ? boxBetween(gesture.from, at) : null,
      wire: gesture?.kind === 'wire' ? { from: gesture.from, to: at, over: this.#hover } : null,
      ports: this.#app.editable.peek() === true,
    };
  }

  #bright(scene: Scene, selected: ReadonlySet<string>): ReadonlySet<string> | null {
    const key = this.dim.peek() && selected.size ? [...selected].join(' ') : '';
    if (this.#brightFor?.scene !== scene || this.#brightFor.key !== key) {
      this.#brightFor = { scene, key, set: key ? connectedTo(scene, selected) : null };
    }
    return this.#brightFor.set;
  }

  #draw(now: number): void {
    if (!this.#width || !this.#height) return;
    const ratio = this.#canvas.width / this.#width;
    this.#ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    const picture = this.#picture(now);
    draw(this.#ctx, picture);
    for (const id of picture.flashes.keys()) {
      const shown = this.flashed.get(id);
      if (shown) shown.frames++;
    }
    if (this.#flashes.size) this.#app.frames.take(this.#fade);
  }

  /** The whole graph as a picture, at zoom 1 as far as a canvas can be that large. */
  image(): Promise<Blob | null> {
    const bounds = this.scene.peek().bounds ?? { x: 0, y: 0, w: 1, h: 1 };
    const margin = 32;
    const k = Math.min(1, 8192 / (bounds.w + 2 * margin), 8192 / (bounds.h + 2 * margin));
    const canvas = document.createElement('canvas');
    canvas.width = Math.ceil((bounds.w + 2 * margin) * k);
    canvas.height = Math.ceil((bounds.h + 2 * margin) * k);
    draw(canvas.getContext('2d', { alpha: false })!, {
      ...this.#picture(performance.now()), camera: { k, x: (margin - bounds.x) * k, y: (margin - bounds.y) * k },
      width: canvas.width, height: canvas.height, selected: new Set(), cursor: null, hover: null, marquee: null,
      wire: null, flashes: new Map(),
    });
    return new Promise((resolve) => canvas.toBlob(resolve, 'image/png'));
  }

  // ---------------------------------------------------------- the view

  #setCamera({ k, x, y }: Camera): void {
    select(this.#canvas).call(this.#zoom.transform, zoomIdentity.translate(x, y).scale(k));
  }

  /** Shows a box as a whole, or, without one, everything. */
  fit(box: Box | null = this.scene.peek().bounds): void {
    if (!this.#width) return;
    if (!box) {
      this.#setCamera({ k: 1, x: 48, y: 48 });
      return;
    }
    const margin = 32;
    const wanted = Math.min((this.#width - 2 * margin) / box.w, (this.#height - 2 * margin) / box.h, 1);
    this.#centreAt(box, Math.max(zooms[0], wanted));
  }

  zoomBy(factor: number): void {
    select(this.#canvas).call(this.#zoom.scaleBy, factor);
  }

  /** Brings something to the middle, near enough to be read. */
  centre(id: string): void {
    const scene = this.scene.peek();
    const item = scene.items.get(id) ?? scene.homes.get(id);
    if (!item) return;
    if (item.kind === 'lan') {
      this.fit(item);
      return;
    }
    const box = item.kind === 'edge' ? boxBetween(item.from, item.to) : item;
    if (item.kind === 'edge') this.fit({ x: box.x - 80, y: box.y - 80, w: box.w + 160, h: box.h + 160 });
    else this.#centreAt(box, Math.max(this.#camera.k, 0.9));
  }

  #centreAt(box: Box, k: number): void {
    this.#setCamera({ k, x: this.#width / 2 - (box.x + box.w / 2) * k, y: this.#height / 2 - (box.y + box.h / 2) * k });
  }

  /** Moves the view just as far as something needs to be seen. */
  #reveal(node: SceneNode): void {
    const { k, x, y } = this.#camera;
    const b = { x: node.x * k + x, y: node.y * k + y, w: node.w * k, h: node.h * k };
    const inset = 24;
    const off = (from: number, extent: number, room: number): number =>
      from < inset ? inset - from : from + extent > room - inset ? Math.max(room - inset - extent, inset) - from : 0;
    const [dx, dy] = [off(b.x, b.w, this.#width), off(b.y, b.h, this.#height)];
    if (dx || dy) this.#setCamera({ k, x: x + dx, y: y + dy });
  }

  /** Where something is, in CSS pixels of the window; null if it is not there. */
  onScreen(id: string): Box | null {
    const item = this.scene.peek().items.get(id);
    if (!item) return null;
    const { k, x, y } = this.#camera;
    const { left, top } = this.#canvas.getBoundingClientRect();
    const box = item.kind === 'edge' ? boxBetween(item.from, item.to) : item;
    return { x: left + box.x * k + x, y: top + box.y * k + y, w: box.w * k, h: box.h * k };
  }

  /** Where a menu opens that is asked for by key: at what the keyboard is on or what is selected. CSS pixels. */
  menuCorner(): Point {
    const { items } = this.scene.peek();
    const at = this.#keyboardAt(items);
    const box = at ? this.onScreen(at) : null;
    const { left, top, right, bottom } = this.#canvas.getBoundingClientRect();
    const within = (from: number, low: number, high: number): number => Math.min(Math.max(low, from), high - 16) + 8;
    return { x: within(box?.x ?? left, left, right), y: within(box?.y ?? top, top, bottom) };
  }

  /** Where a decky's port is, in CSS pixels of the window; null where it has none at this zoom. */
  portOnScreen(id: string): Point | null {
    const item = this.scene.peek().items.get(id);
    const at = item?.kind === 'decky' ? portOf(item, levelAt(this.#camera.k), this.#camera.k) : null;
    if (!at) return null;
    const { k, x, y } = this.#camera;
    const { left, top } = this.#canvas.getBoundingClientRect();
    return { x: left + at.x * k + x, y: top + at.y * k + y };
  }

  #world({ x, y }: Point): Point {
    return { x: (x - this.#camera.x) / this.#camera.k, y: (y - this.#camera.y) / this.#camera.k };
  }

  // ---------------------------------------------------------- selection

  select(items: readonly Selection[], how: 'only' | 'toggle' | 'add' = 'only'): void {
    const { selection } = this.#app.route.current.peek();
    const had = new Set(selection.map(idOf));
    const given = new Set(items.map(idOf));
    const next = how === 'only' ? items
      : how === 'add' ? [...selection, ...items.filter((s) => !had.has(idOf(s)))]
        : [...selection.filter((s) => !given.has(idOf(s))), ...items.filter((s) => !had.has(idOf(s)))];
    this.#app.route.go({ selection: next });
  }

  /** What is selected and has a row: neither ghosts nor what is gone. */
  #targets(): Selection[] {
    const { items, homes } = this.scene.peek();
    return this.#app.route.current.peek().selection.filter((s) => items.get(idOf(s))?.row || homes.has(idOf(s)));
  }

  // ---------------------------------------------------------- pointer

  #on<K extends keyof HTMLElementEventMap>(
    type: K, listener: (event: HTMLElementEventMap[K]) => void, options?: AddEventListenerOptions,
  ): void {
    this.#canvas.addEventListener(type, listener, options);
    this.#ends.push(() => this.#canvas.removeEventListener(type, listener, options));
  }

  #listen(): void {
    const canvas = this.#canvas;
    const observer = new ResizeObserver(() => this.#resize());
    observer.observe(canvas);
    const recolour = (): void => {
      this.#theme = themeOf(canvas);
      this.request();
    };
    const scheme = matchMedia('(prefers-color-scheme: light)');
    scheme.addEventListener('change', recolour);
    const themes = new MutationObserver(recolour);
    themes.observe(document.documentElement, { attributeFilter: ['data-theme', 'data-past'] });
    void document.fonts?.ready.then(recolour);
    this.#ends.push(() => observer.disconnect(), () => scheme.removeEventListener('change', recolour),
      () => themes.disconnect());
    this.#on('pointerdown', (event) => this.#down(event), { capture: true });
    this.#on('pointermove', (event) => this.#move(event));
    this.#on('pointerup', (event) => this.#up(event));
    this.#on('pointercancel', () => this.#cancelGesture());
    this.#on('pointerleave', () => {
      this.#hover = null;
      this.request();
    });
    this.#on('dblclick', () => {
      const item = this.#hit();
      if (item) this.centre(item.id);
    });
    this.#on('contextmenu', (event) => this.#menu(event));
    this.#on('keydown', (event) => {
      if (this.#key(event)) {
        event.preventDefault();
        event.stopPropagation();
      }
    });
    const accepts = (event: DragEvent): boolean =>
      this.#app.editable.peek() === true && !!event.dataTransfer?.types.includes(itemType);
    this.#on('dragover', (event) => {
      if (!accepts(event)) return;
      event.preventDefault();
      this.#point(event);
      this.#hover = this.#hit()?.id ?? null;
      this.request();
    });
    this.#on('drop', (event) => {
      if (!accepts(event)) return;
      event.preventDefault();
      this.#point(event);
      const item = this.#hit();
      const onto = item?.kind === 'decky' ? item.name : null;
      this.#app.intents.drop(event.dataTransfer!.getData(itemType), this.#place(item), onto);
    });
  }

  #resize(): void {
    const { clientWidth, clientHeight } = this.#canvas;
    const ratio = window.devicePixelRatio || 1;
    this.#width = clientWidth;
    this.#height = clientHeight;
    this.#canvas.width = Math.round(clientWidth * ratio);
    this.#canvas.height = Math.round(clientHeight * ratio);
    if (!this.#fitted && this.scene.peek() !== noScene && clientWidth > 0) {
      this.#fitted = true;
      this.fit();
    }
    this.#app.frames.cancel(this.#onFrame); // a canvas that was resized is empty until it is drawn
    if (this.#stale) this.#build(performance.now());
    this.#draw(performance.now());
  }

  #point(event: MouseEvent): void {
    const { left, top } = this.#canvas.getBoundingClientRect();
    this.#pointer = { x: event.clientX - left, y: event.clientY - top };
  }

  #hit(): SceneItem | null {
    const { k } = this.#camera;
    return this.#index.at(this.#world(this.#pointer), 5 / k, levelAt(k));
  }

  /** The decky whose port is beneath the pointer. */
  #port(): SceneDecky | null {
    const hovered = this.#hover ? this.scene.peek().items.get(this.#hover) : undefined;
    const { k, x, y } = this.#camera;
    if (this.#app.editable.peek() !== true || hovered?.kind !== 'decky' || !hovered.row) return null;
    const at = portOf(hovered, levelAt(k), k);
    const near = at && Math.hypot(at.x * k + x - this.#pointer.x, at.y * k + y - this.#pointer.y) <= 9;
    return near ? hovered : null;
  }

  #place(item: SceneItem | null): Place {
    const { x, y } = this.#world(this.#pointer);
    const { items } = this.scene.peek();
    const lan = item?.kind === 'lan' ? item : item?.kind === 'decky' && item.lan ? items.get(item.lan) : undefined;
    const from = lan?.kind === 'lan' ? lan.origin : { x: 0, y: 0 };
    return {
      x: Math.round(x - from.x), y: Math.round(y - from.y),
      lan: lan?.kind === 'lan' && (lan.row || lan.mark?.phase === 'staged') ? lan.name : null,
    };
  }

  /** A viewer may move things, which stays in the tab; so may an editor while the graph can be edited. */
  #mayMove(): boolean {
    return this.#app.editable.peek() === true
      || (this.#app.session.role.peek() === 'viewer' && this.#app.past.peek() === null
        && window.innerWidth >= 700);
  }

  /** A decky is dragged by itself, a LAN by its header, or, from afar, as a block. */
  #draggable(item: SceneItem | null): boolean {
    if (!item?.row || item.kind === 'edge' || !this.#mayMove()) return false;
    if (item.kind === 'decky') return true;
    const { k } = this.#camera;
    return levelAt(k) === 'far' || this.#world(this.#pointer).y <= item.origin.y + Math.max(size.header, 18 / k);
  }

  #takesDrag(): boolean {
    const gesture = this.#gesture;
    return gesture !== null && (gesture.kind !== 'click' || gesture.draggable);
  }

  #down(event: PointerEvent): void {
    if (event.button !== 0 || !event.isPrimary) return;
    this.#point(event);
    this.#canvas.focus({ preventScroll: true });
    const port = this.#port();
    const item = this.#hit();
    if (port) {
      const at = portOf(port, levelAt(this.#camera.k), this.#camera.k)!;
      this.#gesture = { kind: 'wire', from: at, decky: port };
    } else if (event.shiftKey && (!item || item.kind === 'lan')) {
      this.#gesture = { kind: 'marquee', from: this.#world(this.#pointer), add: true };
    } else {
      this.#gesture = { kind: 'click', from: this.#pointer, id: item?.id ?? null, draggable: this.#draggable(item) };
    }
    if (this.#takesDrag()) this.#canvas.setPointerCapture(event.pointerId);
  }

  #move(event: PointerEvent): void {
    this.#point(event);
    const gesture = this.#gesture;
    if (gesture?.kind === 'click' && distance(gesture.from, this.#pointer) > 4) {
      if (!gesture.draggable) {
        this.#gesture = null; // d3-zoom moves the view
      } else {
        const ids = this.#draggedWith(gesture.id!);
        this.#gesture = { kind: 'drag', from: this.#world(gesture.from), ids };
      }
    }
    if (!event.buttons || gesture?.kind === 'wire') {
      const over = this.#hit()?.id ?? null;
      // Beside its card a port still belongs to its decky.
      const hover = this.#gesture ? over : this.#port()?.id ?? over;
      if (hover !== this.#hover) {
        this.#hover = hover;
        this.request();
      }
      this.#canvas.dataset.over = this.#port() ? 'port' : hover?.split(':')[0] ?? '';
    }
    if (this.#gesture && this.#gesture.kind !== 'click') this.request();
  }

  /** What is dragged with something: itself, or, if it is selected, all that is; deckies in a LAN go with it. */
  #draggedWith(id: string): ReadonlySet<string> {
    const { items } = this.scene.peek();
    const selected = this.#targets().map(idOf);
    const ids = new Set(selected.includes(id) ? selected : [id]);
    return new Set([...ids].filter((each) => {
      const item = items.get(each);
      return !!item && item.kind !== 'edge' && !(item.kind === 'decky' && item.lan && ids.has(item.lan));
    }));
  }

  #dragOffset(from: Point): Point {
    const at = this.#world(this.#pointer);
    const snap = (length: number): number => Math.round(length / size.gap) * size.gap;
    return { x: snap(at.x - from.x), y: snap(at.y - from.y) };
  }

  #up(event: PointerEvent): void {
    this.#point(event);
    const gesture = this.#gesture;
    this.#gesture = null;
    this.request();
    if (!gesture) return;
    const { items } = this.scene.peek();
    if (gesture.kind === 'click') {
      const item = gesture.id ? items.get(gesture.id) : undefined;
      const how = event.shiftKey || event.ctrlKey || event.metaKey ? 'toggle' : 'only';
      if (item?.row) {
        this.select([selectionOf(item)], how);
        this.cursor.value = null;
      } else if (how === 'only') {
        this.select([]);
      }
    } else if (gesture.kind === 'marquee') {
      const nodes = this.#index.marquee(boxBetween(gesture.from, this.#world(this.#pointer)), levelAt(this.#camera.k));
      this.select(nodes.filter(({ row }) => row).map(selectionOf), 'add');
    } else if (gesture.kind === 'wire') {
      const target = this.#hit();
      const lan = target?.kind === 'decky' && target.lan ? items.get(target.lan) : target;
      if (lan?.kind === 'lan' && target !== gesture.decky) {
        this.#app.intents.connect(gesture.decky.name, lan.name);
      }
    } else if (!this.#rehome(gesture.ids)) {
      this.#moveTo(gesture.ids, this.#dragOffset(gesture.from));
    }
  }

  /** A home cannot change: a decky that is dropped on another LAN is not moved. What one may do instead is asked. */
  #rehome(ids: ReadonlySet<string>): boolean {
    const { items, lans } = this.scene.peek();
    const [decky] = [...ids].map((id) => items.get(id));
    if (decky?.kind !== 'decky' || ids.size > 1 || this.#app.editable.peek() !== true) return false;
    const home = decky.lan ? items.get(decky.lan) : undefined;
    const at = this.#world(this.#pointer);
    if (home?.kind !== 'lan' || contains(home, at)) return false; // the home may lie over other LANs
    const lan = lans.findLast((one) => contains(one, at));
    if (!lan) return false;
    this.#app.intents.rehome(decky.name, lan.name);
    return true;
  }

  #cancelGesture(): void {
    this.#gesture = null;
    this.request();
  }

  #moveTo(ids: ReadonlySet<string>, by: Point): void {
    if (!by.x && !by.y) return;
    const { items } = this.scene.peek();
    for (const id of ids) {
      const item = items.get(id);
      if (!item?.row || item.kind === 'edge') continue;
      const home = item.kind === 'decky' && item.lan ? items.get(item.lan) : undefined;
      const from = home?.kind === 'lan' ? home.origin : { x: 0, y: 0 };
      const at = item.kind === 'lan' ? item.origin : item;
      const to = { x: at.x + by.x - from.x, y: at.y + by.y - from.y };
      this.#moved.set(id, { ...to, wasX: item.row.x, wasY: item.row.y });
      if (this.#app.editable.peek() === true) {
        this.#app.intents.move(selectionOf(item), to);
        this.#expect(id);
      }
    }
    this.#afterMoves();
  }

  /** What was dropped goes back after three seconds in which no mutation moves it and its row has stayed as it was. */
  #expect(id: string): void {
    const place = this.#moved.get(id);
    window.setTimeout(() => {
      if (this.#moved.get(id) !== place) return;
      const item = this.scene.peek().items.get(id);
      if (item?.mark?.phase === 'pending' || item?.mark?.phase === 'applying') {
        this.#expect(id);
        return;
      }
      this.#moved.delete(id);
      this.#afterMoves();
    }, 3000);
  }

  #menu(event: MouseEvent): void {
    event.preventDefault();
    this.#point(event);
    const item = this.#hit();
    const { selection } = this.#app.route.current.peek();
    if (item?.row && !selection.some((s) => idOf(s) === item.id)) this.select([selectionOf(item)]);
    this.#app.intents.menu(item?.row ? this.#targets() : [], this.#place(item),
      { x: event.clientX, y: event.clientY });
  }

  // ---------------------------------------------------------- keys

  /** The id of what the keyboard is on, or else of the first that is selected. */
  #keyboardAt(items: ReadonlyMap<string, SceneItem>): string | undefined {
    return this.cursor.peek() ?? this.#app.route.current.peek().selection.map(idOf).find((id) => items.has(id));
  }

  #key(event: KeyboardEvent): boolean {
    if (event.ctrlKey || event.metaKey || event.altKey) return false;
    const { items } = this.scene.peek();
    const at = this.#keyboardAt(items);
    const item = at ? items.get(at) : undefined;
    const directions: Record<string, Direction> = {
      ArrowLeft: 'left', ArrowRight: 'right', ArrowUp: 'up', ArrowDown: 'down',
    };
    const direction = directions[event.key];
    if (direction) {
      const from = item?.kind === 'edge' ? item.decky : item;
      const to = from ? neighbour(this.scene.peek(), from, direction) : this.#first();
      if (to) this.#goTo(to);
      return true;
    }
    switch (event.key) {
      case 'Enter':
      case ' ': {
        if (!item?.row) {
          if (!item) this.#cursorTo(this.#first());
          return true;
        }
        const { selection } = this.#app.route.current.peek();
        const isSelected = selection.some((s) => idOf(s) === item.id);
        if (event.shiftKey || event.key === ' ') this.select([selectionOf(item)], 'toggle');
        else if (!isSelected || selection.length > 1) this.select([selectionOf(item)]);
        else if (item.kind === 'lan') this.#enter(item.members[0] ?? item);
        else this.centre(item.id);
        return true;
      }
      case 'Backspace': { // up, from a decky to its LAN
        const lan = item?.kind === 'decky' && item.lan ? items.get(item.lan) : undefined;
        if (lan?.kind === 'lan') this.#goTo(lan);
        return true;
      }
      case 'Delete': {
        const targets = this.#targets();
        if (!targets.length || this.#app.editable.peek() !== true) return false;
        this.#app.intents.remove(targets);
        return true;
      }
      case 'F10':
      case 'ContextMenu': {
        if (event.key === 'F10' && !event.shiftKey) return false;
        const client = this.menuCorner();
        const { left, top } = this.#canvas.getBoundingClientRect();
        this.#pointer = { x: client.x - left, y: client.y - top };
        if (item?.row && !this.#targets().some((s) => idOf(s) === item.id)) this.select([selectionOf(item)]);
        this.#app.intents.menu(item?.row ? this.#targets() : [], this.#place(item ?? null), client);
        return true;
      }
      case '+':
      case '=': this.zoomBy(1.25); return true;
      case '-': this.zoomBy(0.8); return true;
      case '0': this.#setCamera({ ...this.#camera, k: 1 }); return true;
      case 'Escape':
        if (this.#gesture) this.#cancelGesture();
        else if (this.cursor.peek()) this.cursor.value = null;
        else if (this.#app.route.current.peek().selection.length) this.select([]);
        else return false;
        return true;
      default: return false;
    }
  }

  /** Where the keyboard begins: the LAN that is farthest up and left, or such a decky where there is no LAN. */
  #first(): SceneNode | null {
    const { lans, deckies } = this.scene.peek();
    const nodes: readonly SceneNode[] = lans.length ? lans : deckies;
    return nodes.reduce<SceneNode | null>((a, b) => !a || b.y + b.x < a.y + a.x ? b : a, null);
  }

  #goTo(node: SceneNode): void {
    this.#cursorTo(node);
    this.#reveal(node);
  }

  #cursorTo(node: SceneNode | null): void {
    this.cursor.value = node?.id ?? null;
  }

  #enter(node: SceneNode): void {
    this.#cursorTo(node);
    if (levelAt(this.#camera.k) === 'near') this.#reveal(node);
    else this.centre(node.id);
  }
}

interface Row {
  readonly id?: string;
  readonly uuid?: string;
  readonly x: number | null;
  readonly y: number | null;
}

const distance = (a: Point, b: Point): number => Math.hypot(a.x - b.x, a.y - b.y);

const boxBetween = (a: Point, b: Point): Box =>
  ({ x: Math.min(a.x, b.x), y: Math.min(a.y, b.y), w: Math.abs(a.x - b.x), h: Math.abs(a.y - b.y) });
