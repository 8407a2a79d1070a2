import { signal } from '@preact/signals';
import { afterEach, expect, test, vi } from 'vitest';
import { createFrames } from '../src/state/frames.ts';
import { createLive } from '../src/state/live.ts';
import { parseRoute, type RouteState } from '../src/state/route.ts';
import type { Session } from '../src/state/session.ts';

const page = window as unknown as Window & typeof globalThis;

afterEach(() => vi.useRealTimers());

test('a stream that fell silent while the machine slept is opened anew as soon as it wakes', async () => {
  vi.useFakeTimers();
  const fetch = vi.spyOn(page, 'fetch').mockImplementation(async () =>
    new Response(new ReadableStream(), { headers: { 'Content-Type': 'text/event-stream' } }));
  const session = { token: signal(null), getToken: async () => null, tellRole: () => undefined };
  const route = { current: signal(parseRoute('')) };
  const { connection } = createLive(
    page, session as unknown as Session, route as unknown as RouteState, createFrames(page));
  await vi.advanceTimersByTimeAsync(1000);
  expect(connection.value.state).toBe('open');
  vi.setSystemTime(Date.now() + 3600_000); // and performance.now() has stood still
  await vi.advanceTimersByTimeAsync(10_000);
  expect(fetch).toHaveBeenCalledTimes(2);
  expect(connection.value.state).toBe('open');
});
