import { useCallback, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { RefObject } from 'preact';

export interface Window {
  readonly ref: RefObject<HTMLDivElement | null>;
  readonly from: number;
  readonly to: number;
  readonly onScroll: () => void;
}

/** Gives which of `count` rows of `height` pixels are to be drawn: what is seen, and ten beyond at each end. */
export function useVirtual(count: number, height: number): Window {
  const ref = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, size: 600 });
  const onScroll = useCallback(() => {
    const element = ref.current;
    if (!element) return;
    const top = Math.floor(element.scrollTop / height);
    const size = element.clientHeight;
    setView((old) => old.top === top && old.size === size ? old : { top, size });
  }, [height]);
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return undefined;
    onScroll();
    const observer = new ResizeObserver(onScroll);
    observer.observe(element);
    return () => observer.disconnect();
  }, [onScroll]);
  const first = Math.min(view.top, Math.max(0, count - Math.ceil(view.size / height)));
  return {
    ref, onScroll, from: Math.max(0, first - 10), to: Math.min(count, first + Math.ceil(view.size / height) + 11),
  };
}

/** Scrolls so that a row is seen, if it is not. */
export function reveal(element: HTMLElement | null, index: number, height: number): void {
  if (!element || index < 0) return;
  const top = index * height;
  if (top < element.scrollTop) element.scrollTop = top;
  else if (top + height > element.scrollTop + element.clientHeight) {
    element.scrollTop = top + height - element.clientHeight;
  }
}
