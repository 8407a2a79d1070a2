import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { createFrames } from '../src/state/frames.ts';

const page = window as unknown as Window;

beforeEach(() => { vi.useFakeTimers(); });
afterEach(() => { vi.useRealTimers(); });

test('what comes is taken in once, and drawn in the same frame', () => {
  const frames = createFrames(page);
  const did: string[] = [];
  const draw = (): void => void did.push('draw');
  const take = (): void => {
    did.push('take');
    frames.draw(draw);
  };
  frames.draw(draw);
  frames.take(take);
  frames.take(take);
  vi.advanceTimersByTime(17);
  expect(did).toEqual(['take', 'draw']);
  vi.advanceTimersByTime(1000);
  expect(did).toEqual(['take', 'draw']);
});

test('what comes all the time is taken in every second frame, and the hand draws in each', () => {
  const frames = createFrames(page);
  let takes = 0;
  let draws = 0;
  const take = (): void => { takes++; frames.take(take); };
  const draw = (): void => { draws++; frames.draw(draw); };
  frames.take(take);
  frames.draw(draw);
  vi.advanceTimersByTime(1000);
  expect(draws).toBeGreaterThan(55);
  expect(takes).toBeGreaterThan(25);
  expect(takes).toBeLessThan(35);
});

test('in a tab without frames what comes is taken in all the same, and drawn when there are some', () => {
  const asked: FrameRequestCallback[] = [];
  const frames = createFrames({
    requestAnimationFrame: (run: FrameRequestCallback) => asked.push(run),
    setTimeout: page.setTimeout.bind(page), clearTimeout: page.clearTimeout.bind(page),
  } as unknown as Window);
  const did: string[] = [];
  const draw = (): void => void did.push('draw');
  frames.take(() => {
    did.push('take');
    frames.draw(draw);
  });
  vi.advanceTimersByTime(300);
  expect(did).toEqual(['take']);
  expect(asked.length).toBe(1);
  asked[0]!(1000);
  expect(did).toEqual(['take', 'draw']);
});

test('one that throws stops nobody else', () => {
  const frames = createFrames(page);
  const later = vi.spyOn(globalThis, 'queueMicrotask').mockImplementation(() => undefined);
  let ran = false;
  frames.draw(() => { throw new Error('mine'); });
  frames.draw(() => { ran = true; });
  vi.advanceTimersByTime(17);
  expect(ran).toBe(true);
  expect(later).toHaveBeenCalledOnce();
  later.mockRestore();
});
