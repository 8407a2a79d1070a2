// Who is signed in: the token, what it says of itself, and how it is renewed. It is kept in sessionStorage alone.
import { batch, computed, signal, type ReadonlySignal } from '@preact/signals';
import { forgetKept } from '../edit/kept.ts';
import type { RouteState } from './route.ts';

export type Role = 'viewer' | 'admin';

/** Who a token is for, as its claims say; the role as the server says, once it has. */
export interface Identity {
  readonly subject: string;
  readonly role: Role;
  /** Milliseconds since 1970; null where a cookie speaks for the page. */
  readonly expires: number | null;
}

export interface Session {
  readonly token: ReadonlySignal<string | null>;
  /** Null where a cookie speaks for the page. */
  readonly identity: ReadonlySignal<Identity | null>;
  /** Decides what the page offers. Null where a cookie speaks for the page and the server has not said it yet. */
  readonly role: ReadonlySignal<Role | null>;
  /** Takes the role of a stream's Topostream-Role: a token may have it in another claim than `role`, or in none. */
  readonly tellRole: (role: string | null) => void;
  /** Set while the server refuses, or the token has ended: the page asks for another one. */
  readonly wanted: ReadonlySignal<string | null>;
  readonly signIn: (token: string) => void;
  readonly signOut: () => void;
  /** As TopologyStream's getToken: gives another token than the one rejected, once there is one. */
  readonly getToken: (rejected?: string) => Promise<string | null>;
  /** Asks for another token, with the reason that is shown. */
  readonly want: (reason: string) => void;
}

const key = 'topostream.token';

/** Reads a token's claims without checking it; null if it is no JWT. */
export function identityOf(token: string): Identity | null {
  try {
    const payload = token.split('.')[1]!.replace(/-/g, '+').replace(/_/g, '/');
    const bytes = Uint8Array.from(atob(payload), (c) => c.charCodeAt(0));
    const claims = JSON.parse(new TextDecoder().decode(bytes)) as { sub?: string; role?: string; exp?: number };
    return {
      subject: String(claims.sub ?? ''),
      role: claims.role === 'admin' ? 'admin' : 'viewer',
      expires: typeof claims.exp === 'number' ? claims.exp * 1000 : null,
    };
  } catch {
    return null;
  }
}

export function createSession(window: Window, route: RouteState): Session {
  const storage = window.sessionStorage;
  const token = signal<string | null>(route.takeToken() ?? storage.getItem(key));
  const told = signal<Role | null>(null);
  const claimed = computed(() => token.value === null ? null : identityOf(token.value));
  const role = computed(() => told.value ?? claimed.value?.role ?? null);
  const wanted = signal<string | null>(null);
  let waiting: ((token: string | null) => void)[] = [];
  const store = (value: string | null): void => {
    if (value) storage.setItem(key, value);
    else storage.removeItem(key);
    batch(() => {
      token.value = value;
      told.value = null; // it was said of the former token
    });
  };
  store(token.peek());
  // A link with a token that is opened in a tab of the page changes only the fragment.
  window.addEventListener('hashchange', () => {
    const linked = route.takeToken();
    if (linked) signIn(linked);
  });
  const signIn = (value: string): void => {
    store(value.trim());
    wanted.value = null;
    for (const resolve of waiting.splice(0)) resolve(token.peek());
  };
  return {
    token,
    identity: computed(() => claimed.value && { ...claimed.value, role: role.value! }),
    role,
    tellRole: (said) => { if (said === 'viewer' || said === 'admin') told.value = said; },
    wanted,
    signIn,
    signOut: () => {
      store(null);
      forgetKept(storage);
      for (const resolve of waiting.splice(0)) resolve(null);
    },
    want: (reason) => { wanted.value = reason; },
    getToken: async (rejected) => {
      if (rejected === undefined || rejected !== token.peek()) return token.peek();
      wanted.value = 'the token has ended or is not accepted: paste another';
      return new Promise((resolve) => { waiting = [...waiting, resolve]; });
    },
  };
}
