// Draws a scene on a canvas: what is to be seen of it, at the level of detail of its zoom.
import { healths, isUnhealthy, type Health } from './health.ts';
import type { SceneIndex } from './hit.ts';
import type { Box, Point } from './layout.ts';
import { size } from './layout.ts';
import { levelAt, type Level } from './level.ts';
import type { Mark, Scene, SceneDecky, SceneItem, SceneLan, SceneLink } from './scene.ts';
import { beginning } from '../state/text.ts';

export interface Theme {
  readonly ground: string;
  readonly panel: string;
  readonly raised: string;
  readonly hairline: string;
  readonly text: string;
  readonly quiet: string;
  readonly healthy: string;
  readonly applying: string;
  readonly staged: string;
  readonly degraded: string;
  readonly failed: string;
  readonly focus: string;
  readonly selected: string;
  readonly font: string;
  readonly mono: string;
}

export function themeOf(element: Element): Theme {
  const style = getComputedStyle(element);
  const colours = [
    'ground', 'panel', 'raised', 'hairline', 'text', 'quiet', 'healthy', 'applying', 'staged', 'degraded',
    'failed', 'focus', 'selected'] as const;
  // A property says light-dark(…), which a canvas does not understand: the colour of an element is what comes of it.
  const probe = document.createElement('span');
  probe.hidden = true;
  probe.style.setProperty('forced-color-adjust', 'none'); // where they are forced all would be one colour
  element.after(probe);
  const read = (name: string): string => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const theme = {
    ...Object.fromEntries(colours.map((name) => [name, read(name)])),
    font: style.getPropertyValue('--font').trim(), mono: style.getPropertyValue('--mono').trim(),
  };
  probe.remove();
  return theme as unknown as Theme;
}

/** Screen = k · world + (x, y), in CSS pixels of the canvas. */
export interface Camera {
  readonly k: number;
  readonly x: number;
  readonly y: number;
}

export interface Picture {
  readonly scene: Scene;
  readonly index: SceneIndex;
  readonly camera: Camera;
  readonly width: number;
  readonly height: number;
  readonly theme: Theme;
  readonly selected: ReadonlySet<string>;
  /** Where the keyboard is, and what the pointer is over. */
  readonly cursor: string | null;
  readonly hover: string | null;
  /** Null draws everything bright. */
  readonly bright: ReadonlySet<string> | null;
  readonly unhealthyOnly: boolean;
  /** How much of its flash is left to each item that has changed: 1 to 0. */
  readonly flashes: ReadonlyMap<string, number>;
  /** What is being dragged, and how far from its place it is. */
  readonly dragged: ReadonlySet<string>;
  readonly offset: Point;
  /** In world pixels. */
  readonly marquee: Box | null;
  readonly wire: { readonly from: Point; readonly to: Point; readonly over: string | null } | null;
  readonly ports: boolean;
}

const colourOf = (theme: Theme, health: Health): string =>
  health === 'failed' ? theme.failed : health === 'degraded' ? theme.degraded
    : health === 'pending' ? theme.applying : health === 'healthy' ? theme.healthy : theme.quiet;

const markColour = (theme: Theme, mark: Mark): string => mark.phase === 'staged' ? theme.staged : theme.applying;

/** The least size of text on the screen. */
const leastText = 11;
/** Sizes go in steps of half a pixel, so that few fonts are in use: the browser keeps the letters of each. */
const fontSize = (px: number): number => Math.max(leastText, Math.round(px * 2) / 2);
const faint = 0.22;
/** The zoom from which dots have names. */
const namedFrom = 0.42;
/** How much of a card's width its dot takes from the name beside it, so that the name ends before the next dot. */
const besideDot = 22;

/** Adds a state's shape to the path: no state is told by colour alone. */
export function shape(path: CanvasPath, health: Health, x: number, y: number, r: number): void {
  switch (health) {
    case 'healthy':
    case 'pending':
      path.moveTo(x + r, y);
      path.arc(x, y, r, 0, 2 * Math.PI);
      break;
    case 'degraded':
      path.moveTo(x, y - r * 1.2);
      path.lineTo(x + r * 1.2, y + r);
      path.lineTo(x - r * 1.2, y + r);
      path.closePath();
      break;
    case 'failed':
      path.rect(x - r, y - r, 2 * r, 2 * r);
      break;
    case 'stopped':
      path.rect(x - r, y - r * 0.3, 2 * r, r * 0.6);
      break;
    case 'other':
      path.moveTo(x, y - r);
      path.lineTo(x, y + r);
      path.moveTo(x - r, y);
      path.lineTo(x + r, y);
  }
}

/** `pending` is a ring and `other` a cross: these are stroked, the rest is filled. */
const isStroked = (health: Health): boolean => health === 'pending' || health === 'other';

function drawShape(
  ctx: CanvasRenderingContext2D, theme: Theme, health: Health, x: number, y: number, r: number,
): void {
  ctx.beginPath();
  shape(ctx, health, x, y, r);
  paint(ctx, theme, health);
}

function paint(ctx: CanvasRenderingContext2D, theme: Theme, health: Health): void {
  ctx.strokeStyle = ctx.fillStyle = colourOf(theme, health);
  ctx.lineWidth = 1.5;
  if (isStroked(health)) ctx.stroke();
  else ctx.fill();
}

function diamond(path: CanvasPath, x: number, y: number, r: number): void {
  path.moveTo(x, y - r);
  path.lineTo(x + r, y);
  path.lineTo(x, y + r);
  path.lineTo(x - r, y);
  path.closePath();
}

/** What is known of texts in one font: how wide each is, and what of it has room. */
interface Measured {
  readonly widths: Map<string, number>;
  readonly fitted: Map<number, Map<string, string>>; // by the room for it, in steps of four pixels
}

/** Text as far as there is room, with an ellipsis; measured once. */
class Texts {
  #fonts = new Map<string, Measured>();
  #font = ''; // as set last: reading it from the context costs as much as all the rest
  #of: Measured = { widths: new Map(), fitted: new Map() };
  #size = 0;

  /** Sets the context's font; what follows is of texts in it. */
  font(ctx: CanvasRenderingContext2D, font: string): void {
    ctx.font = font;
    if (font === this.#font) return;
    this.#font = font;
    let of = this.#fonts.get(font);
    if (!of) this.#fonts.set(font, of = { widths: new Map(), fitted: new Map() });
    this.#of = of;
  }

  width(ctx: CanvasRenderingContext2D, text: string): number {
    let width = this.#of.widths.get(text);
    if (width === undefined) {
      this.#count();
      this.#of.widths.set(text, width = ctx.measureText(text).width);
    }
    return width;
  }

  fit(ctx: CanvasRenderingContext2D, text: string, room: number): string {
    const full = this.width(ctx, text);
    if (full <= room) return text;
    if (room < 14) return '';
    const fours = Math.floor(room / 4);
    let some = this.#of.fitted.get(fours);
    if (!some) this.#of.fitted.set(fours, some = new Map());
    let fitted = some.get(text);
    if (fitted === undefined) {
      this.#count();
      const limit = fours * 4;
      let n = Math.floor((text.length * limit) / full);
      while (n > 0 && ctx.measureText(beginning(text, n) + '…').width > limit) n--;
      some.set(text, fitted = n > 0 ? beginning(text, n) + '…' : '');
    }
    return fitted;
  }

  /** Each step of a zoom is another font: when too much is kept, all of it goes. */
  #count(): void {
    if (++this.#size <= 40_000) return;
    this.#size = 1;
    this.#fonts.clear();
    this.#of.widths.clear();
    this.#of.fitted.clear();
    this.#fonts.set(this.#font, this.#of);
  }
}
const texts = new Texts();

/** Draws a picture on a canvas whose unit is a CSS pixel. */
export function draw(ctx: CanvasRenderingContext2D, p: Picture): void {
  const { camera: { k, x: cx, y: cy }, theme, width, height } = p;
  const level = levelAt(k);
  ctx.globalAlpha = 1;
  ctx.setLineDash([]);
  ctx.fillStyle = theme.ground;
  ctx.fillRect(0, 0, width, height);
  ctx.textBaseline = 'alphabetic';

  const margin = 40 / k;
  const seen = p.index.within({
    x: -cx / k - margin, y: -cy / k - margin, w: width / k + 2 * margin, h: height / k + 2 * margin,
  });
  const lans: SceneLan[] = [];
  const deckies: SceneDecky[] = [];
  const links: SceneLink[] = [];
  for (const item of seen) {
    if (item.kind === 'lan') lans.push(item);
    else if (item.kind === 'decky') deckies.push(item);
    else links.push(item);
  }

  const dx = (item: SceneItem): number => isDragged(item) ? p.offset.x : 0;
  const dy = (item: SceneItem): number => isDragged(item) ? p.offset.y : 0;
  const isDragged = (item: SceneItem): boolean => p.dragged.size > 0
    && (p.dragged.has(item.id) || (item.kind === 'decky' && item.lan !== null && p.dragged.has(item.lan)));
  const box = (item: SceneLan | SceneDecky): Box =>
    ({ x: (item.x + dx(item)) * k + cx, y: (item.y + dy(item)) * k + cy, w: item.w * k, h: item.h * k });
  const isBright = (item: SceneItem): boolean => (!p.bright || p.bright.has(item.id)) && (!p.unhealthyOnly
    || (item.kind === 'decky' ? isUnhealthy(item.health)
      : item.kind === 'lan' ? !!(item.counts.failed || item.counts.degraded) : isUnhealthy(item.decky.health)));
  const alpha = (item: SceneItem): number => isBright(item) ? 1 : faint;

  if (level === 'far') drawLinks(); // behind the blocks, whose words they would cross
  for (const lan of lans) drawLan(lan);
  if (level !== 'far') drawLinks();
  for (const lan of lans) drawWords(lan);
  if (level === 'near') for (const decky of deckies) drawCard(decky);
  else if (level === 'middle') drawDots(deckies);
  else drawDots(deckies.filter(({ lan }) => lan === null));
  ctx.globalAlpha = 1;
  drawOutlines();
  drawOverlays();

  function drawLan(lan: SceneLan): void {
    const b = box(lan);
    const sharp = { x: Math.round(b.x) + 0.5, y: Math.round(b.y) + 0.5, w: Math.round(b.w), h: Math.round(b.h) };
    ctx.globalAlpha = alpha(lan);
    ctx.fillStyle = theme.panel;
    ctx.fillRect(sharp.x, sharp.y, sharp.w, sharp.h);
    ctx.lineWidth = 1;
    ctx.strokeStyle = lan.mark ? markColour(theme, lan.mark) : theme.hairline;
    if (lan.mark) ctx.setLineDash([5, 4]);
    ctx.strokeRect(sharp.x, sharp.y, sharp.w, sharp.h);
    if (lan.dmz) {
      if (!lan.mark) ctx.strokeStyle = theme.quiet;
      ctx.strokeRect(sharp.x, sharp.y, sharp.w, sharp.h);
      const d = level === 'far' ? 3 : 4;
      if (b.w > 12 && b.h > 12) ctx.strokeRect(sharp.x + d, sharp.y + d, sharp.w - 2 * d, sharp.h - 2 * d);
    }
    ctx.setLineDash([]);
    if (lan.mark?.kind === 'going') cross(sharp, markColour(theme, lan.mark));
  }

  function drawWords(lan: SceneLan): void {
    ctx.globalAlpha = alpha(lan);
    if (level === 'far') drawBlock(lan, box(lan));
    else drawHeader(lan, box(lan));
  }

  function cross(b: Box, colour: string): void {
    ctx.beginPath();
    ctx.moveTo(b.x, b.y);
    ctx.lineTo(b.x + b.w, b.y + b.h);
    ctx.strokeStyle = colour;
    ctx.lineWidth = 1;
    ctx.setLineDash([5, 4]);
    ctx.stroke();
    ctx.setLineDash([]);
  }

  function drawHeader(lan: SceneLan, b: Box): void {
    // From further away the header is lower than its words: it has no rule then, and they use the room beneath.
    const ruled = size.header * k >= 16;
    const px = fontSize(13 * k);
    const y = ruled ? b.y + (size.header * k) / 2 + px * 0.36 + 2 : b.y + px + 4;
    const indent = (lan.dmz ? 12 : 10) * Math.min(1, k) + 2;
    const room = b.w - 2 * indent;
    const word = lan.dmz && lan.name.toLowerCase() !== 'dmz' ? lan.name + ' · DMZ' : lan.name;
    const nameFont = `600 ${px}px ${theme.font}`;
    texts.font(ctx, nameFont);
    const nameWidth = texts.width(ctx, word);
    texts.font(ctx, `${px - 1}px ${theme.mono}`);
    const cidrWidth = texts.width(ctx, lan.subnet) + 8;
    const both = cidrWidth + Math.min(nameWidth, room * 0.6) <= room;
    ctx.fillStyle = theme.quiet;
    if (both) ctx.fillText(lan.subnet, b.x + b.w - indent - cidrWidth + 8, y);
    texts.font(ctx, nameFont);
    ctx.fillStyle = theme.text;
    ctx.fillText(texts.fit(ctx, word, both ? room - cidrWidth : room), b.x + indent, y);
    if (ruled) {
      ctx.fillStyle = theme.hairline;
      const inset = lan.dmz ? 5 : 1;
      ctx.fillRect(Math.round(b.x) + inset, Math.round(b.y + size.header * k + 4), b.w - 2 * inset, 1);
    }
  }

  /** A LAN from afar: its name, and how many deckies are in which state; where there is no room, its worst state. */
  function drawBlock(lan: SceneLan, b: Box): void {
    const counted = healths.filter((h) => lan.counts[h]);
    const roomy = b.h >= 36 && b.w >= 44;
    texts.font(ctx, `600 ${leastText}px ${theme.font}`);
    ctx.fillStyle = theme.text;
    if (b.h >= 18 && b.w >= 28) {
      const name = texts.fit(ctx, lan.name, b.w - 12);
      ctx.fillText(name, b.x + 6, roomy ? b.y + 14 : b.y + b.h / 2 + 4);
      if (!roomy) {
        const worst = counted[0];
        const end = b.x + 6 + texts.width(ctx, name) + 8;
        if (worst && worst !== 'healthy' && end + 4 < b.x + b.w) {
          drawShape(ctx, theme, worst, Math.max(end, b.x + b.w - 8), b.y + b.h / 2, 3.5);
        } else if (worst && worst !== 'healthy') edge(worst);
        return;
      }
    } else {
      if (counted[0]) drawShape(ctx, theme, counted[0], b.x + b.w / 2, b.y + b.h / 2, Math.min(3.5, b.h / 3));
      return;
    }
    texts.font(ctx, `${leastText}px ${theme.mono}`);
    let x = b.x + 10;
    let y = b.y + 27;
    for (const health of counted) {
      const n = String(lan.counts[health]);
      const w = 12 + texts.width(ctx, n);
      if (x + w > b.x + b.w && x > b.x + 10) {
        if (y + 13 > b.y + b.h - 2) {
          ctx.fillStyle = theme.quiet;
          ctx.fillText('…', b.x + b.w - 9, y);
          break;
        }
        x = b.x + 10;
        y += 13;
      }
      drawShape(ctx, theme, health, x, y - 4, 3.5);
      ctx.fillStyle = health === 'healthy' ? theme.quiet : colourOf(theme, health);
      ctx.fillText(n, x + 7, y);
      x += w + 6;
    }

    function edge(health: Health): void {
      ctx.fillStyle = colourOf(theme, health);
      ctx.fillRect(b.x, b.y, 3, b.h);
    }
  }

  function drawLinks(): void {
    const width = level === 'far' ? 1.5 : Math.max(2, Math.min(3.5, 3 * k));
    const trace = (link: SceneLink): void => {
      const toX = (link.to.x + dx(link.lan)) * k + cx;
      const toY = (link.to.y + dy(link.lan)) * k + cy;
      if (level === 'middle') { // from the dot, not from the middle of the card that it stands for
        const dot = dotAt(box(link.decky), k >= namedFrom);
        const beside = k >= namedFrom && Math.abs(toY - dot.y) * 3 < toX - dot.x; // it would strike out the name
        ctx.moveTo(beside ? Math.min(toX, dot.x + 20 + nameWidth(link.decky)) : dot.x, dot.y);
      } else ctx.moveTo((link.from.x + dx(link.decky)) * k + cx, (link.from.y + dy(link.decky)) * k + cy);
      ctx.lineTo(toX, toY);
    };
    const stroke = (some: readonly SceneLink[], colour: string, a: number): void => {
      if (!some.length) return;
      ctx.beginPath();
      for (const link of some) trace(link);
      ctx.globalAlpha = a;
      ctx.strokeStyle = colour;
      ctx.lineWidth = width;
      ctx.stroke();
    };
    const plain = links.filter((link) => !link.mark);
    const colour = theme.quiet;
    stroke(plain.filter(isBright), colour, 0.7);
    stroke(plain.filter((link) => !isBright(link)), colour, 0.12);
    ctx.setLineDash([5, 4]);
    for (const link of links) if (link.mark) stroke([link], markColour(theme, link.mark), alpha(link));
    ctx.setLineDash([]);
    if (level === 'far') return;
    for (const link of links) { // the port on the LAN's border; a diamond if it forwards
      ctx.globalAlpha = alpha(link);
      const x = (link.to.x + dx(link.lan)) * k + cx;
      const y = (link.to.y + dy(link.lan)) * k + cy;
      ctx.beginPath();
      if (link.forwards) diamond(ctx, x, y, 6);
      else ctx.rect(x - 3, y - 3, 6, 6);
      ctx.fillStyle = theme.ground;
      ctx.strokeStyle = link.mark ? markColour(theme, link.mark) : theme.quiet;
      ctx.lineWidth = 1.5;
      ctx.fill();
      ctx.stroke();
    }
  }

  function nameWidth(decky: SceneDecky): number {
    texts.font(ctx, `${leastText}px ${theme.font}`);
    return Math.min(texts.width(ctx, decky.name), decky.w * k - besideDot);
  }

  /** All dots of one state are one path: two thousand single ones would cost a frame. */
  function drawDots(some: readonly SceneDecky[]): void {
    const r = Math.max(3, Math.min(6, 11 * k));
    const named = k >= namedFrom;
    for (const light of [false, true]) {
      for (const health of healths) {
        const group = some.filter((d) => d.health === health && isBright(d) === light);
        if (!group.length) continue;
        ctx.globalAlpha = light ? 1 : faint;
        ctx.beginPath();
        for (const decky of group) {
          const at = dotAt(box(decky), named);
          shape(ctx, health, at.x, at.y, r);
        }
        paint(ctx, theme, health);
        ctx.beginPath();
        for (const decky of group) {
          if (!decky.gateway) continue;
          const at = dotAt(box(decky), named);
          diamond(ctx, at.x, at.y, r + (named ? 5 : 3)); // further away the LAN's name is just above
        }
        ctx.strokeStyle = theme.quiet;
        ctx.lineWidth = 1.5;
        ctx.stroke();
        if (!named) continue;
        texts.font(ctx, `${leastText}px ${theme.font}`);
        ctx.fillStyle = light ? theme.text : theme.quiet;
        ctx.strokeStyle = theme.panel; // a bridge that passes beneath a name leaves it to be read
        ctx.lineWidth = 4;
        ctx.lineJoin = 'round';
        for (const decky of group) {
          const b = box(decky);
          const at = dotAt(b, named);
          const name = texts.fit(ctx, decky.name, b.w - besideDot);
          if (light) ctx.strokeText(name, at.x + r + 8, at.y + 4);
          ctx.fillText(name, at.x + r + 8, at.y + 4);
        }
      }
    }
    for (const decky of some) {
      if (!decky.mark) continue;
      const b = box(decky);
      const at = dotAt(b, named);
      ctx.globalAlpha = alpha(decky);
      ctx.beginPath();
      ctx.arc(at.x, at.y, r + 4, 0, 2 * Math.PI);
      ctx.strokeStyle = markColour(theme, decky.mark);
      ctx.lineWidth = 1.5;
      ctx.setLineDash([3, 3]);
      ctx.stroke();
      ctx.setLineDash([]);
      ctx.beginPath();
      if (decky.mark.kind === 'going') {
        ctx.moveTo(at.x - r - 6, at.y - r - 6);
        ctx.lineTo(at.x + r + 6, at.y + r + 6);
      } else if (decky.mark.kind === 'new') ctx.arc(at.x, at.y, r, 0, 2 * Math.PI); // which has no state yet
      ctx.lineWidth = 2;
      ctx.stroke();
    }
  }

  function dotAt(b: Box, named: boolean): Point {
    return { x: named ? b.x + 12 : b.x + b.w / 2, y: b.y + b.h / 2 };
  }

  function drawCard(decky: SceneDecky): void {
    const b = box(decky);
    const bad = isUnhealthy(decky.health);
    ctx.globalAlpha = alpha(decky);
    ctx.fillStyle = theme.raised;
    ctx.fillRect(b.x, b.y, b.w, b.h);
    ctx.lineWidth = 1;
    ctx.strokeStyle = decky.mark ? markColour(theme, decky.mark)
      : bad ? colourOf(theme, decky.health) : theme.hairline;
    if (decky.mark) ctx.setLineDash([5, 4]);
    const sharp = {
      x: Math.round(b.x) + 0.5, y: Math.round(b.y) + 0.5, w: Math.round(b.w) - 1, h: Math.round(b.h) - 1,
    };
    ctx.strokeRect(sharp.x, sharp.y, sharp.w, sharp.h);
    ctx.setLineDash([]);
    if (decky.mark?.kind === 'going') cross(sharp, markColour(theme, decky.mark));

    const px = fontSize(12 * k);
    const step = b.h / 3.5;
    const r = Math.max(3, 4 * k);
    const left = b.x + 10 * k;
    const inner = b.w - 20 * k;
    let y = b.y + step * 1.05;
    let x = left;
    if (decky.row) { // what is only asked for has no state yet
      drawShape(ctx, theme, decky.health, left + r, y - px * 0.36, r);
      x += 2 * r + 6 * k;
    }
    if (decky.gateway) {
      ctx.beginPath();
      diamond(ctx, x + r + 1, y - px * 0.36, r + 1.5);
      ctx.strokeStyle = theme.text;
      ctx.lineWidth = 1.5;
      ctx.stroke();
      x += 2 * r + 8 * k;
    }
    texts.font(ctx, `500 ${px}px ${theme.font}`);
    ctx.fillStyle = theme.text;
    ctx.fillText(texts.fit(ctx, decky.name, left + inner - x), x, y);
    y += step;
    const small = fontSize(11 * k);
    texts.font(ctx, `${small}px ${theme.mono}`);
    const word = decky.health === 'healthy' ? '' : decky.state;
    const wordWidth = word ? Math.min(texts.width(ctx, word), inner * 0.5) : 0;
    if (word) {
      ctx.fillStyle = decky.mark?.kind === 'new' ? markColour(theme, decky.mark) : colourOf(theme, decky.health);
      ctx.fillText(texts.fit(ctx, word, wordWidth + 1), left + inner - wordWidth, y);
    }
    ctx.fillStyle = theme.quiet;
    ctx.fillText(texts.fit(ctx, decky.ip, inner - wordWidth - 6), left, y);
    y += step;
    texts.font(ctx, `${small}px ${theme.font}`);
    ctx.fillText(texts.fit(ctx, decky.services.join(' · '), inner), left, y);
  }

  function outlineOf(item: SceneItem): Box | null {
    if (item.kind === 'edge') return null;
    const b = box(item);
    if (item.kind === 'lan' || level === 'near') return b;
    if (level === 'far') { // deckies are not drawn: the LAN is outlined in their place
      const lan = item.lan === null ? undefined : p.scene.items.get(item.lan);
      return lan?.kind === 'lan' ? box(lan) : b;
    }
    const named = k >= namedFrom;
    const at = dotAt(b, named);
    return named ? { x: b.x, y: at.y - 12, w: b.w, h: 24 } : { x: at.x - 10, y: at.y - 10, w: 20, h: 20 };
  }

  function drawOutlines(): void {
    const trace = (id: string, colour: string, width: number, grow: number): void => {
      const item = p.scene.items.get(id) ?? p.scene.homes.get(id);
      if (!item) return;
      ctx.strokeStyle = colour;
      ctx.lineWidth = width;
      if (item.kind === 'edge') {
        ctx.beginPath();
        ctx.moveTo((item.from.x + dx(item.decky)) * k + cx, (item.from.y + dy(item.decky)) * k + cy);
        ctx.lineTo((item.to.x + dx(item.lan)) * k + cx, (item.to.y + dy(item.lan)) * k + cy);
        ctx.lineWidth = width + 1.5;
        ctx.stroke();
        return;
      }
      const b = outlineOf(item);
      if (b) {
        ctx.strokeRect(Math.round(b.x - grow) + 0.5, Math.round(b.y - grow) + 0.5,
          Math.round(b.w + 2 * grow) - 1, Math.round(b.h + 2 * grow) - 1);
      }
    };
    for (const [id, left] of p.flashes) {
      ctx.globalAlpha = left;
      trace(id, theme.text, 2, 1);
    }
    ctx.globalAlpha = 1;
    if (p.hover && !p.selected.has(p.hover)) trace(p.hover, theme.quiet, 1, 0);
    for (const id of p.selected) trace(id, theme.focus, 2, 1);
    if (p.cursor) {
      ctx.setLineDash([2, 2]);
      trace(p.cursor, theme.focus, 2, 4);
      ctx.setLineDash([]);
    }
  }

  function drawOverlays(): void {
    const hovered = p.hover ? p.scene.items.get(p.hover) : undefined;
    if (p.ports && hovered?.kind === 'decky') {
      const at = portOf(hovered, level, k);
      if (at) {
        ctx.beginPath();
        ctx.arc(at.x * k + cx, at.y * k + cy, 5, 0, 2 * Math.PI);
        ctx.fillStyle = theme.ground;
        ctx.strokeStyle = theme.focus;
        ctx.lineWidth = 2;
        ctx.fill();
        ctx.stroke();
      }
    }
    if (p.wire) {
      const { from, to, over } = p.wire;
      ctx.beginPath();
      ctx.moveTo(from.x * k + cx, from.y * k + cy);
      ctx.lineTo(to.x * k + cx, to.y * k + cy);
      ctx.strokeStyle = theme.staged;
      ctx.lineWidth = 2.5;
      ctx.setLineDash([5, 4]);
      ctx.stroke();
      ctx.setLineDash([]);
      const target = over ? p.scene.items.get(over) : undefined;
      const b = target && outlineOf(target);
      if (b) {
        ctx.strokeStyle = theme.staged;
        ctx.strokeRect(b.x - 1, b.y - 1, b.w + 2, b.h + 2);
      }
    }
    if (p.marquee) {
      const { x, y, w, h } = p.marquee;
      ctx.strokeStyle = theme.focus;
      ctx.lineWidth = 1;
      ctx.setLineDash([3, 3]);
      ctx.strokeRect(Math.round(x * k + cx) + 0.5, Math.round(y * k + cy) + 0.5, Math.round(w * k), Math.round(h * k));
      ctx.setLineDash([]);
    }
  }
}

/** Where a decky's port is, in world pixels: the middle of its right side; none where it would be too small to take. */
export function portOf(decky: SceneDecky, level: Level, k: number): Point | null {
  if (level === 'far' || decky.w * k < 40) return null;
  return { x: decky.x + decky.w, y: decky.y + decky.h / 2 };
}
