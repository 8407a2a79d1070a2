import { useCallback, useLayoutEffect, useRef, useState } from 'preact/hooks';
import type { RefObject } from 'preact';

export interface VirtualRows {
  readonly ref: RefObject<HTMLDivElement | null>;
  readonly from: number;
  readonly to: number;
  readonly onScroll: () => void;
}

/** The rows that are drawn move on by so many at once: not each row that scrolls in costs a rendering. */
const step = 5;
/** How many more are drawn above and below. */
const beyond = 10;
const never = (): boolean => false;

/**
 * Gives which of `count` rows of `height` pixels are to be drawn: what is seen, and at least ten beyond at each end.
 * While `atEnd` says so, these are the last ones, although the element is not scrolled down to them yet.
 */
export function useVirtual(count: number, height: number, atEnd: () => boolean = never): VirtualRows {
  const ref = useRef<HTMLDivElement>(null);
  const [view, setView] = useState({ top: 0, size: 600 });
  const onScroll = useCallback(() => {
    const element = ref.current;
    if (!element) return;
    const size = element.clientHeight;
    setView((old) => {
      const top = atEnd() ? old.top : Math.floor(element.scrollTop / height / step) * step;
      return old.top === top && old.size === size ? old : { top, size };
    });
  }, [height]);
  useLayoutEffect(() => {
    const element = ref.current;
    if (!element) return undefined;
    onScroll();
    const observer = new ResizeObserver(onScroll);
    observer.observe(element);
    return () => observer.disconnect();
  }, [onScroll]);
  const seen = Math.ceil(view.size / height);
  const end = Math.max(0, count - seen);
  const first = atEnd() ? end : Math.min(view.top, end);
  return { ref, onScroll, from: Math.max(0, first - beyond), to: Math.min(count, first + seen + step + beyond) };
}

/** Scrolls so that a row is seen, if it is not; one that is not there has a negative top. */
export function reveal(element: HTMLElement | null, top: number, height: number): void {
  if (!element || top < 0) return;
  if (top < element.scrollTop) element.scrollTop = top;
  else if (top + height > element.scrollTop + element.clientHeight) {
    element.scrollTop = top + height - element.clientHeight;
  }
}
