// What one looks at is in the address: #/<topology>?sel=decky:<uuid>&q=…, so that it can be sent, and Back goes back.
import { signal, type ReadonlySignal } from '@preact/signals';

/** A LAN or edge by id, a decky by uuid, a mutation by id, an event by seq. */
export interface Selection {
  readonly kind: 'lan' | 'decky' | 'edge' | 'mutation' | 'event';
  readonly key: string;
}

export interface Route {
  /** The topology that is open. */
  readonly topology: string | null;
  readonly selection: readonly Selection[];
  /** The list's search, its filter by status and its order. */
  readonly search: string;
  readonly status: string;
  readonly sort: string;
  /** The timeline's filter. */
  readonly filter: string;
  /** The seq that one looks at; null is the head. */
  readonly at: number | null;
  /** The graph as a drawing or as a table. */
  readonly view: 'graph' | 'table';
  /** A dialog or drawer that is open, by name. */
  readonly panel: string;
}

export interface RouteState {
  readonly current: ReadonlySignal<Route>;
  /** Goes to another state; a new entry of the history unless `replace`. */
  readonly go: (change: Partial<Route>, replace?: boolean) => void;
  /** What came with the address once, and was taken out of it: a token. */
  readonly takeToken: () => string | null;
}

const nowhere: Route = {
  topology: null, selection: [], search: '', status: '', sort: '', filter: '', at: null, view: 'graph', panel: '',
};
const kinds = /^(lan|decky|edge|mutation|event):(.+)$/;

/** Reads an address's fragment. What it does not know it leaves out. */
export function parseRoute(hash: string): Route {
  const [path = '', query = ''] = hash.replace(/^#/, '').split('?', 2);
  const params = new URLSearchParams(query);
  const selection = params.getAll('sel').flatMap((text): Selection[] => {
    const match = kinds.exec(text);
    return match ? [{ kind: match[1] as Selection['kind'], key: match[2]! }] : [];
  });
  const at = params.get('at');
  return {
    topology: /^\/([0-9a-f-]{36})$/i.exec(path)?.[1]?.toLowerCase() ?? null,
    selection,
    search: params.get('q') ?? '',
    status: params.get('status') ?? '',
    sort: params.get('sort') ?? '',
    filter: params.get('filter') ?? '',
    at: at && /^\d{1,16}$/.test(at) ? Number(at) : null,
    view: params.get('view') === 'table' ? 'table' : 'graph',
    panel: params.get('panel') ?? '',
  };
}

/** Writes a fragment that parseRoute reads as the same. */
export function formatRoute(route: Route): string {
  const params = new URLSearchParams();
  for (const { kind, key } of route.selection) params.append('sel', `${kind}:${key}`);
  if (route.search) params.set('q', route.search);
  if (route.status) params.set('status', route.status);
  if (route.sort) params.set('sort', route.sort);
  if (route.filter) params.set('filter', route.filter);
  if (route.at !== null) params.set('at', String(route.at));
  if (route.view !== 'graph') params.set('view', route.view);
  if (route.panel) params.set('panel', route.panel);
  const query = params.toString();
  return `#/${route.topology ?? ''}${query && '?' + query}`;
}

export function createRoute(window: Window): RouteState {
  const { location, history } = window;
  let token: string | null = null;
  let last = nowhere;
  // `dev` and others link to #token=…&topology=…: a secret does not stay in the address.
  const read = (): Route => {
    const legacy = new URLSearchParams(location.hash.slice(1));
    if (!legacy.has('token') && !legacy.has('topology')) return last = parseRoute(location.hash);
    token = legacy.get('token') ?? token;
    // A token alone leaves one where one is.
    const topology = legacy.get('topology')?.toLowerCase() || null;
    const route = legacy.has('topology') ? { ...nowhere, topology } : last;
    last = route;
    history.replaceState(null, '', formatRoute(route));
    return route;
  };
  const current = signal(read());
  window.addEventListener('hashchange', () => { current.value = read(); });
  window.addEventListener('popstate', () => { current.value = read(); });
  return {
    current,
    go: (change, replace = false) => {
      const next = { ...current.peek(), ...change };
      const address = formatRoute(next);
      if (address === formatRoute(current.peek())) return;
      if (replace) history.replaceState(null, '', address);
      else history.pushState(null, '', address);
      current.value = last = next;
    },
    takeToken: () => {
      const taken = token;
      token = null;
      return taken;
    },
  };
}
