// React hooks over a stream's snapshots.
import { createContext, useContext, useEffect, useRef, useSyncExternalStore } from 'react';
import type { TopologyStream } from './stream.ts';
import type { StreamState, TopologyState } from './types.ts';

type Stream = Pick<TopologyStream, 'add' | 'remove' | 'subscribe' | 'getSnapshot'>;

const Context = createContext<Stream | null>(null);

/** `<TopologyProvider value={stream}>`: the stream that the hooks below it use. */
export const TopologyProvider = Context.Provider;

/** How many components follow an id only because a hook asked for it. */
const followers = new WeakMap<Stream, Map<string, number>>();

/** Follows an id until the function that it gives is called; one that the stream's owner added stays. */
function follow(stream: Stream, id: string): () => void {
  let counts = followers.get(stream);
  if (!counts) followers.set(stream, counts = new Map());
  const count = counts.get(id) ?? 0;
  if (!count && stream.getSnapshot().topologies[id]) return () => {};
  counts.set(id, count + 1);
  stream.add(id);
  // Not before the turn is over: StrictMode, or another component, may ask for it again at once.
  return () => queueMicrotask(() => {
    const left = counts.get(id)! - 1;
    counts.set(id, left);
    if (!left) stream.remove(id);
  });
}

function useStream(): Stream {
  const stream = useContext(Context);
  if (!stream) throw new Error('there is no TopologyProvider above this component');
  return stream;
}

/** What select gives, the same object as before if it is equal to it: a selector may make a new one each time. */
function useSelected<S, T>(stream: Stream, state: (from: StreamState) => S, select: (from: S) => T): T {
  const last = useRef<{ from: S; select: unknown; value: T }>(undefined);
  const get = (): T => {
    const from = state(stream.getSnapshot());
    if (!last.current || last.current.from !== from || last.current.select !== select) {
      const value = select(from);
      last.current = { from, select, value: same(last.current?.value, value) ? last.current!.value : value };
    }
    return last.current.value;
  };
  return useSyncExternalStore(stream.subscribe, get, get);
}

/** Object.is, or arrays and plain objects whose members are, one level deep. */
function same(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (!a || !b || typeof a !== 'object' || typeof b !== 'object') return false;
  const [x, y] = [Object.entries(a), Object.entries(b)];
  return a.constructor === b.constructor && /^(Object|Array)$/.test(a.constructor?.name) && x.length === y.length
    && x.every(([key, value]) => Object.hasOwn(b, key) && Object.is(value, (b as Record<string, unknown>)[key]));
}

const whole = <T>(from: T): T => from;

/**
 * A topology, or what select takes of it; the component renders only when that changes. It follows the id while the
 * component is mounted. Undefined until then: on a server, and in the first render.
 */
export function useTopology(id: string): TopologyState | undefined;
export function useTopology<T>(id: string, select: (topology: TopologyState | undefined) => T): T;
export function useTopology(id: string, select: (topology: TopologyState | undefined) => unknown = whole): unknown {
  const stream = useStream();
  const key = id.toLowerCase();
  useEffect(() => follow(stream, key), [stream, key]);
  return useSelected(stream, ({ topologies }) => topologies[key], select);
}

/** Everything that the stream follows: the connection, each topology by id, and the list if it was asked for. */
export function useTopologies(): StreamState;
export function useTopologies<T>(select: (state: StreamState) => T): T;
export function useTopologies(select: (state: StreamState) => unknown = whole): unknown {
  return useSelected(useStream(), whole, select);
}
