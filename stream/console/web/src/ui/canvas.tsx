import { useComputed, useSignal } from '@preact/signals';
import { useLayoutEffect, useRef, useState } from 'preact/hooks';
import { GraphController } from '../graph/controller.ts';
import { healthOf, healths, type Health } from '../graph/health.ts';
import { levelAt } from '../graph/level.ts';
import type { Scene, SceneItem } from '../graph/scene.ts';
import { useApp } from './context.ts';
import { FailureStrip } from './failures.tsx';
import { Find } from './find.tsx';
import { GraphTable } from './graph-table.tsx';
import { HealthMark } from './health-mark.tsx';
import { Fill } from './inject.tsx';
import { keyText } from './keytext.ts';
import { AsOf } from './scrub.tsx';
import '../style/graph.css';

/** The graph of the topology that is open: drawn, or as a table. */
export function Canvas() {
  const app = useApp();
  const { topology, view } = app.route.current.value;
  return (
    <main class="canvas" aria-label="Graph">
      <AsOf />
      <FailureStrip />
      {topology === null ? <Nothing /> : view === 'table' ? <TableView /> : <Drawing key={topology} />}
    </main>
  );
}

function Nothing() {
  return <p class="canvas-empty">Open a topology from the list to see its graph.</p>;
}

function TableView() {
  const { commands, route } = useApp();
  useLayoutEffect(() => commands.add({
    id: 'graph.drawing', title: 'Show the graph as a drawing', group: 'View', keys: 'v',
    run: () => route.go({ view: 'graph' }),
  }), [commands, route]);
  return (
    <div class="graph-body">
      <div class="graph-tools" role="toolbar" aria-label="Graph">
        <button type="button" onClick={() => route.go({ view: 'graph' })}>Show as a drawing</button>
      </div>
      <GraphTable />
    </div>
  );
}

function Drawing() {
  const app = useApp();
  const element = useRef<HTMLCanvasElement>(null);
  const [graph, setGraph] = useState<GraphController | null>(null);
  const finding = useSignal(false);

  useLayoutEffect(() => { // before the first frame: its keys count from then on
    const controller = new GraphController(app, element.current!);
    setGraph(controller);
    app.editing.menuCorner.value = () => controller.menuCorner();
    const opened = (): true | string => app.shown.peek() ? true : 'no graph is open';
    const selected = (): string | null => {
      const first = app.route.current.peek().selection[0];
      return first ? `${first.kind}:${first.key}` : null;
    };
    const off = app.commands.add(
      { id: 'graph.fit', title: 'Fit the graph into the view', group: 'Graph', keys: 'f', enabled: opened,
        run: () => controller.fit() },
      { id: 'graph.find', title: 'Find in the graph', group: 'Graph', keys: 'Mod-F', enabled: opened,
        run: () => { finding.value = true; } },
      { id: 'graph.centre', title: 'Centre what is selected', group: 'Graph', keys: 'c',
        enabled: () => selected() ? true : 'nothing is selected', run: () => controller.centre(selected()!) },
      { id: 'graph.dim', title: 'Dim what is not connected to the selection', group: 'Graph', keys: 'd',
        run: () => { controller.dim.value = !controller.dim.peek(); } },
      { id: 'graph.unhealthy', title: 'Show only what is unhealthy', group: 'Graph', keys: 'u',
        run: () => { controller.unhealthyOnly.value = !controller.unhealthyOnly.peek(); } },
      { id: 'graph.zoomIn', title: 'Zoom in', group: 'Graph', run: () => controller.zoomBy(1.25) },
      { id: 'graph.zoomOut', title: 'Zoom out', group: 'Graph', run: () => controller.zoomBy(0.8) },
      { id: 'graph.forgetMoves', title: 'Forget what I moved in this tab', group: 'Graph',
        enabled: () => controller.hasMoved.peek() ? true : 'nothing was moved in this tab',
        run: () => controller.forgetMoves() },
      { id: 'graph.png', title: 'Save the graph as PNG', group: 'Graph', enabled: opened,
        run: () => void savePicture(controller, nameOf(app)) },
      { id: 'graph.table', title: 'Show the graph as a table', group: 'View', keys: 'v',
        run: () => app.route.go({ view: 'table' }) },
    );
    const expose = Object.assign(((window as unknown as { topostream?: object }).topostream ??= {}), {
      graph: describe(controller),
    });
    return () => {
      off();
      app.editing.menuCorner.value = null;
      controller.end();
      delete (expose as { graph?: unknown }).graph;
    };
  }, [app, finding]);

  return (
    <div class="graph-body">
      {graph && <Tools graph={graph} find={() => { finding.value = true; }} />}
      <div class="graph-stage">
        <canvas
          ref={element} role="application" tabIndex={0} aria-label="Graph of the topology"
          aria-roledescription="network graph" aria-describedby="graph-says graph-keys"
        />
        <p id="graph-keys" class="visually-hidden">
          Arrows move between LANs, or between deckies. Enter selects; Enter again goes into a LAN. Backspace goes
          from a decky to its LAN. Plus and minus zoom, f fits. The same graph is there as a table: press v.
        </p>
        {graph && <Summary graph={graph} />}
        {graph && finding.value && <Find graph={graph} close={() => {
          finding.value = false;
          element.current?.focus();
        }} />}
        {graph && <Empty graph={graph} />}
      </div>
      <Legend />
    </div>
  );
}

function Tools({ graph, find }: { graph: GraphController; find: () => void }) {
  const { commands, route } = useApp();
  return (
    <div class="graph-tools" role="toolbar" aria-label="Graph">
      <button type="button" title="F" onClick={() => commands.run('graph.fit')}>Fit</button>
      <button type="button" title={keyText('Mod-F')} onClick={find}>Find</button>
      <button type="button" aria-pressed={graph.dim.value} title="D" onClick={() => commands.run('graph.dim')}>
        Dim the rest
      </button>
      <button
        type="button" aria-pressed={graph.unhealthyOnly.value} title="U"
        onClick={() => commands.run('graph.unhealthy')}
      >
        Only unhealthy
      </button>
      {graph.hasMoved.value && (
        <button type="button" onClick={() => commands.run('graph.forgetMoves')}>Forget my moves</button>
      )}
      <span class="graph-space" />
      <span class="graph-zoom">
        <button type="button" aria-label="Zoom out" onClick={() => graph.zoomBy(0.8)}>−</button>
        <output aria-label="Zoom">{Math.round(graph.zoom.value * 100)} %</output>
        <button type="button" aria-label="Zoom in" onClick={() => graph.zoomBy(1.25)}>+</button>
      </span>
      <button type="button" onClick={() => commands.run('graph.png')}>PNG</button>
      <button type="button" title="V" onClick={() => route.go({ view: 'table' })}>Table</button>
    </div>
  );
}

/** What a screen reader is told: how much there is, and where the keyboard is. */
function Summary({ graph }: { graph: GraphController }) {
  const cursor = graph.cursor.value;
  // The scene changes often, and counts are nothing that must be told each time.
  const item = cursor ? graph.scene.peek().items.get(cursor) : undefined;
  return (
    <>
      <p id="graph-says" class="visually-hidden"><Counts graph={graph} /></p>
      <p class="visually-hidden" aria-live="polite">{item ? describeItem(item, graph.scene.peek()) : ''}</p>
    </>
  );
}

function Counts({ graph }: { graph: GraphController }) {
  const text = useComputed(() => {
    const { lans, deckies, links } = graph.scene.value;
    const counts = new Map<Health, number>();
    for (const { health, row } of deckies) if (row) counts.set(health, (counts.get(health) ?? 0) + 1);
    const states = healths.filter((h) => counts.has(h)).map((h) => `${counts.get(h)} ${h}`).join(', ');
    return `${lans.length} LANs, ${deckies.length} deckies${states && `: ${states}`}; ${links.length} bridges.`;
  });
  return <>{text}</>;
}

function describeItem(item: SceneItem, scene: Scene): string {
  if (item.kind === 'edge') return `bridge of ${item.decky.name} into ${item.lan.name}`;
  const mark = item.mark ? `, ${item.mark.kind}, ${item.mark.phase}` : '';
  if (item.kind === 'lan') {
    return `${item.dmz ? 'DMZ' : 'LAN'} ${item.name}, ${item.subnet}, ${item.members.length} deckies${mark}`;
  }
  const lan = item.lan ? scene.items.get(item.lan) : undefined;
  const home = lan?.kind === 'lan' ? ` in ${lan.name}` : ', in no LAN';
  return `${item.gateway ? 'gateway' : 'decky'} ${item.name}, ${item.state}${home}, ${item.ip}${mark}`;
}

function Empty({ graph }: { graph: GraphController }) {
  const { shown, live } = useApp();
  const isEmpty = useComputed(() => graph.scene.value.items.size === 0);
  if (!shown.value) {
    const part = live.open.value?.part;
    const text = part === 'refused' ? `This token does not hold for it: ${live.open.value?.problem ?? 'refused'}.`
      : part === 'deleted' ? 'This topology was deleted.' : 'Waiting for the graph …';
    return <p class="canvas-empty" role="status">{text}</p>;
  }
  if (!isEmpty.value) return null;
  return (
    <div class="canvas-empty" role="status">
      <div>
        <p>There is nothing in this topology yet: no LAN and no decky. This line makes one, and it appears at once:</p>
        <Fill what="lans" />
      </div>
    </div>
  );
}

function Legend() {
  const [open, setOpen] = useState(window.innerWidth >= 1000); // with less it would take the graph's room
  return (
    <details class="legend" open={open} onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>Legend</summary>
      <ul>
        {legend.map((health) => <li key={health}><HealthMark health={health} /> {health}</li>)}
        <li><svg viewBox="0 0 16 12" aria-hidden="true"><path d="M8 1l5 5-5 5-5-5z" class="line" /></svg> gateway</li>
        <li><svg viewBox="0 0 16 12" aria-hidden="true"><path d="M0 6h16" class="thick" /></svg> bridge</li>
        <li>
          <svg viewBox="0 0 16 12" aria-hidden="true">
            <path d="M.5.5h15v11H.5zM3 3h10v6H3z" class="hair" />
          </svg> DMZ
        </li>
        <li><svg viewBox="0 0 16 12" aria-hidden="true"><path d="M1 1h14v10H1z" class="ghost" /></svg> staged</li>
        <li><svg viewBox="0 0 16 12" aria-hidden="true"><path d="M1 1h14v10H1z" class="flight" /></svg> in flight</li>
      </ul>
    </details>
  );
}

const legend: readonly Health[] = ['healthy', 'pending', 'degraded', 'failed', 'stopped', 'other'];

function nameOf(app: ReturnType<typeof useApp>): string {
  const id = app.route.current.peek().topology;
  return app.live.rows.peek()?.find((row) => row.id === id)?.name ?? id ?? 'graph';
}

async function savePicture(controller: GraphController, name: string): Promise<void> {
  const blob = await controller.image();
  if (!blob) return;
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = `${name.replace(/[^\p{L}\p{N}._-]+/gu, '-')}.png`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** For tests: where things are on the screen, by name; and what is drawn. */
function describe(controller: GraphController) {
  const named = (name: string): SceneItem | undefined => {
    const { lans, deckies } = controller.scene.peek();
    return deckies.find((decky) => decky.name === name) ?? lans.find((lan) => lan.name === name);
  };
  return {
    /** CSS pixels of the window; null if there is no such thing. */
    where: (name: string) => {
      const item = named(name);
      return item ? controller.onScreen(item.id) : null;
    },
    /** Where a link is dragged from. */
    port: (name: string) => {
      const at = controller.portOnScreen(named(name)?.id ?? '');
      return at ? [at.x, at.y] : [];
    },
    item: (name: string) => {
      const item = named(name);
      if (!item || item.kind === 'edge') return null;
      const { kind, key, x, y, w, h, mark } = item;
      return { kind, key, x, y, w, h, mark, ...(item.kind === 'decky' && { health: healthOf(item.state) }) };
    },
    counts: () => {
      const { lans, deckies, links } = controller.scene.peek();
      return { lans: lans.length, deckies: deckies.length, links: links.length };
    },
    /** Of the whole, in pixels at zoom 1; null while there is nothing. */
    bounds: () => controller.scene.peek().bounds,
    /** How often something has shown that it changed, in how many frames, and whether anything still does. */
    flashes: (name: string) => {
      const item = named(name);
      const { times, frames } = (item && controller.flashed.get(item.id)) ?? { times: 0, frames: 0 };
      return { times, frames, now: controller.flashing };
    },
    costs: () => controller.costs,
    work: () => ({ ...controller.work }),
    zoom: () => controller.zoom.peek(),
    level: () => levelAt(controller.zoom.peek()),
  };
}
