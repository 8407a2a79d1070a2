import { signal } from '@preact/signals';
import { expect, test, vi } from 'vitest';
import { createRest } from '../src/state/rest.ts';
import type { Session } from '../src/state/session.ts';

/** A page before a server that answers as it is told. */
function setUp(answer: (init: RequestInit) => Promise<Response>) {
  const token = signal<string | null>('old');
  const want = vi.fn<Session['want']>();
  const fetch = (_: unknown, init: RequestInit): Promise<Response> => answer(init);
  const rest = createRest(
    { fetch } as unknown as Window & typeof globalThis, { token, want } as unknown as Session);
  return { rest, token, want };
}

const refused = (): Response => Response.json({ title: 'Unauthorized', detail: 'the token has expired' },
  { status: 401 });

test('another token is asked for when the present one is refused, not for one that was replaced', async () => {
  const { rest, token, want } = setUp(async () => refused());
  const first = rest.send('GET', '/topologies');
  token.value = 'new';
  await expect(first).rejects.toMatchObject({ status: 401 });
  expect(want).not.toHaveBeenCalled();
  await expect(rest.send('GET', '/topologies')).rejects.toMatchObject({ status: 401 });
  expect(want).toHaveBeenCalledExactlyOnceWith('the token has expired');
});

test('a request that no answer comes to ends, and says so', async () => {
  vi.spyOn(AbortSignal, 'timeout').mockReturnValueOnce(AbortSignal.abort(new Error('it took too long')));
  const { rest } = setUp(({ signal }) => new Promise((_, reject) => {
    if (signal?.aborted) reject(signal.reason as Error);
  }));
  await expect(rest.send('POST', '/topologies', {})).rejects.toMatchObject({
    status: 0, message: 'no answer came from the server: it took too long',
  });
});
