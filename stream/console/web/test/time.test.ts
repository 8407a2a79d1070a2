import { afterEach, expect, test, vi } from 'vitest';
import { clock, rowTime } from '../src/ui/time.ts';

afterEach(() => vi.useRealTimers());

test('a time of another day says which', () => {
  vi.useFakeTimers();
  vi.setSystemTime(new Date(2026, 10, 30, 0, 0, 5));
  const [today, before] = [new Date(2026, 10, 30, 0, 0, 1, 42), new Date(2026, 10, 29, 23, 59, 58, 7)]
    .map((at) => at.toISOString());
  expect([rowTime(today!), rowTime(before!), rowTime('')]).toEqual(['00:00:01.042', '11-29 23:59:58', '']);
  expect([clock(today!), clock(before!)]).toEqual(['00:00:01', '2026-11-29 23:59:58']);
});
