import './dom.ts';
import { act, StrictMode, type ReactNode } from 'react';
import { createRoot, hydrateRoot, type Root } from 'react-dom/client';
import { renderToString } from 'react-dom/server';
import { afterEach, beforeEach, expect, expectTypeOf, test } from 'vitest';
import { TopologyStream } from '../src/index.ts';
import { TopologyProvider, useTopologies, useTopology } from '../src/react.ts';
import { Clock, FakeServer, until, uuid } from './server.ts';

let server: FakeServer;
let stream: TopologyStream;
let place: HTMLElement;
let roots: Root[];

beforeEach(async () => {
  server = await FakeServer.start();
  stream = new TopologyStream({ url: server.url, host: new Clock().host() });
  place = document.createElement('div');
  roots = [];
});

afterEach(async () => {
  await act(async () => { for (const root of roots) root.unmount(); });
  stream.close();
  await server.stop();
});

async function render(children: ReactNode, root = createRoot(place)): Promise<Root> {
  if (!roots.includes(root)) roots.push(root);
  await act(async () => root.render(<TopologyProvider value={stream}>{children}</TopologyProvider>));
  return root;
}

const shows = (text: string): Promise<void> => act(() => until(() => place.textContent === text));

function Status({ id }: { id: string }) {
  return <b>{useTopology(id, (t) => t?.status ?? 'none')}</b>;
}

test('a component shows its topology, and follows it as long as it is mounted', async () => {
  const id = server.add(1);
  const root = await render(<Status id={id.toUpperCase()} />);
  await shows('active');
  server.emit(id, 'status', { state: 'degraded', reason: null });
  await shows('degraded');
  await render(null, root);
  await act(() => until(() => server.open.length === 0));
  expect(stream.getSnapshot()).toMatchObject({ connection: { state: 'idle' }, topologies: {} });
});

test('StrictMode, and a second component, ask for nothing twice', async () => {
  const id = server.add(1);
  const root = await render(<StrictMode><Status id={id} /><Status id={id} /></StrictMode>);
  await shows('activeactive');
  await render(<StrictMode><Status id={id} /></StrictMode>, root);
  server.emit(id, 'status', { state: 'degraded', reason: null });
  await shows('degraded');
  expect(server.requests).toHaveLength(1);
});

test('what the owner of the stream added stays when the component goes', async () => {
  const id = server.add(1);
  stream.add(id);
  const root = await render(<Status id={id} />);
  await shows('active');
  await render(null, root);
  await act(async () => {});
  expect(Object.keys(stream.getSnapshot().topologies)).toEqual([id]);
});

test('another id takes the place of the first on one more stream', async () => {
  const [a, b] = [server.add(1), server.add(2, { status: 'failed' })];
  const root = await render(<Status id={a} />);
  await shows('active');
  await render(<Status id={b} />, root);
  await shows('failed');
  expect(server.requests.map((r) => Object.keys(r.body.topologies))).toEqual([[a], [b]]);
});

test('a component renders only when what it selects has changed, even if the selector makes a new object', async () => {
  const id = server.add(1);
  let renders = 0;
  function Count() {
    renders++;
    const { status, version } = useTopology(id, (t) => ({ status: t?.status, version: t?.version }));
    return <>{status} {version}</>;
  }
  await render(<Count />);
  await shows('active 0');
  const before = renders;
  const seq = server.emit(id, 'decky.service_added');
  await act(() => until(() => stream.getSnapshot().topologies[id]!.seq === seq));
  expect(renders).toBe(before);
  server.emit(id, 'mutation.applied', { mutation_id: uuid(9), op: 'add_lan', version: 1, result: {} });
  await shows('active 1');
});

test('useTopologies gives all of the state, or what is selected of it', async () => {
  stream.add(server.add(1));
  stream.add(server.add(2));
  function All() {
    expectTypeOf(useTopologies().connection.state).toBeString();
    return <>{useTopologies((s) => Object.values(s.topologies).map((t) => t.status)).join()}</>;
  }
  await render(<All />);
  await shows('active,active');
});

test('a server renders without connecting, and its page hydrates', async () => {
  const id = server.add(1);
  const page = <TopologyProvider value={stream}><Status id={id} /></TopologyProvider>;
  place.innerHTML = renderToString(page);
  expect(place.textContent).toBe('none');
  expect(stream.getSnapshot().connection.state).toBe('idle');
  const errors: unknown[] = [];
  await act(async () => {
    roots.push(hydrateRoot(place, page, { onRecoverableError: (error) => errors.push(error) }));
  });
  await shows('active');
  expect(errors).toEqual([]);
});

test('without a provider it is said what is missing', () => {
  expect(() => renderToString(<Status id={uuid(1)} />)).toThrow('TopologyProvider');
});
