// Requests to the server. An answer that is no success becomes a Problem with the server's own sentence.
import type { Session } from './session.ts';

/** What the server refuses, as application/problem+json says it (RFC 9457); status 0 where no answer came. */
export class Problem extends Error {
  constructor(readonly status: number, readonly title: string, detail: string) { super(detail || title); }
}

export interface Rest {
  /** Sends JSON and gives the answer's; `path` is below /api/v1, for example `/topologies`. Throws a Problem. */
  readonly send: <T>(
    method: 'GET' | 'POST' | 'PATCH' | 'DELETE', path: string, body?: unknown, headers?: Record<string, string>,
  ) => Promise<T>;
}

/** How long an answer is waited for, in milliseconds: a connection that died while the machine slept brings none. */
const patience = 60_000;

export function createRest(window: Window & typeof globalThis, session: Session): Rest {
  return {
    send: async <T>(
      method: string, path: string, body?: unknown, headers: Record<string, string> = {},
    ): Promise<T> => {
      const token = session.token.peek();
      let response: Response;
      try {
        response = await window.fetch('/api/v1' + path, {
          method,
          signal: AbortSignal.timeout(patience),
          ...(body !== undefined && { body: JSON.stringify(body) }),
          headers: {
            ...(body !== undefined && { 'Content-Type': 'application/json' }),
            ...(token && { Authorization: 'Bearer ' + token }),
            ...headers,
          },
        });
      } catch (error) {
        const why = error instanceof Error ? error.message : String(error);
        throw new Problem(0, 'no answer', `no answer came from the server: ${why}`);
      }
      const answer: unknown = response.status === 204 ? null : await response.json().catch(() => null);
      if (!response.ok) {
        const problem = (answer ?? {}) as { title?: string; detail?: string };
        const { title = 'HTTP ' + response.status, detail = '' } = problem;
        if (response.status === 401 && token === session.token.peek()) session.want(detail || title);
        throw new Problem(response.status, title, detail);
      }
      return answer as T;
    },
  };
}
