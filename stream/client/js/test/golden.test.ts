// What a server sends (testdata/golden, the bytes) is to this client what it is to the Go client (the .json beside it).
import { readdirSync, readFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { TopologyStream, type StreamEvent, type Summary, type Violation } from '../src/index.ts';
import { until, uuid } from './server.ts';

const golden = new URL('../../../../testdata/golden/', import.meta.url);
const read = (file: string): string => readFileSync(new URL(file, golden), 'utf8');
const names = readdirSync(golden).filter((f) => f.endsWith('.sse')).map((f) => f.slice(0, -'.sse'.length));

/** What the reader of a file that resumes had: its topologies' numbers. The client has them of snapshots before. */
const resumed: Record<string, number[]> = {
  resume: [1], notify: [1], graph: [1], changeset: [3], vector: [1, 2],
};
const topologies: Record<string, number> = { list: 0, many: 3, vector: 2 }; // 1, if nothing is said

interface Read { topology_id: string; type: string; seq: number; journaled: boolean; ts: string; payload: unknown }
interface Reading { events: Read[]; list: Summary[] | null }

let stream: TopologyStream | undefined;
afterEach(() => stream?.close());

const readAs = (e: StreamEvent): Read => ({
  topology_id: ('topology_id' in e && e.topology_id) || '',
  type: e.type,
  seq: e.kind === 'event' || e.kind === 'snapshot' ? e.seq : 0, // a row's is in its payload
  journaled: e.kind === 'event',
  ts: 'ts' in e && e.ts || '',
  payload: e.payload,
});

/** A snapshot of topology n. */
function snapshot(n: number, seq: number): string {
  const data = {
    topology_id: uuid(n), status: 'active', reason: null, version: 0, seq, in_flight: [], in_flight_total: 0,
    lans: [], deckies: [], edges: [],
  };
  return `event: snapshot\nid: ${seq}\ndata: ${JSON.stringify(data)}\n\n`;
}

function bodyOf(text: string): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start(controller) { // and it stays open
      for (const byte of new TextEncoder().encode(text)) controller.enqueue(Uint8Array.of(byte));
    },
  });
}

test('there are golden streams, and each has what it means', () => {
  expect(names).toContain('list');
  expect(names.length).toBeGreaterThan(8);
});

test.each(names)('%s is read as the Go client reads it', async (name) => {
  const want = JSON.parse(read(`${name}.json`)) as Reading;
  const before = (resumed[name] ?? []).map((seq, i) => snapshot(i + 1, seq)).join('');
  const body = before + read(`${name}.sse`);
  const events: StreamEvent[] = [];
  const violations: Violation[] = [];
  let asked = 0;
  stream = new TopologyStream({
    url: 'http://server', graph: true, list: name === 'list',
    topologies: Array.from({ length: topologies[name] ?? 1 }, (_, i) => uuid(i + 1)),
    onEvent: (e) => events.push(e), onViolation: (v) => violations.push(v),
    host: {
      performance, Math, setTimeout: (f, ms) => setTimeout(f, ms), clearTimeout: (t) => clearTimeout(t as number),
      fetch: async () => {
        asked++;
        return new Response(bodyOf(body), { headers: { 'Content-Type': 'text/event-stream' } });
      },
    },
  });
  const known = resumed[name]?.length ?? 0;
  await until(() => events.length === known + want.events.length || violations.length);
  expect(violations).toEqual([]);
  expect(events.slice(known).map(readAs)).toEqual(want.events);
  expect(asked).toBe(1);

  const state = stream.getSnapshot();
  const rows = state.list && [...state.list].sort((a, b) => a.id < b.id ? -1 : 1);
  expect(rows).toEqual(want.list);
  for (const [id, topology] of Object.entries(state.topologies)) {
    const last = want.events.filter((e) => e.topology_id === id).at(-1)!;
    const number = want.events.filter((e) => e.topology_id === id && e.seq).at(-1)?.seq;
    expect(topology.seq).toBe(number ?? resumed[name]?.[0] ?? null);
    expect(topology.part).toBe(last.type === 'deleted' ? 'deleted' : 'live');
    expect(topology.broken).toBeNull();
  }
});
