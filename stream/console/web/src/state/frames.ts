// What one frame of the screen shows is worked out once: first what came is taken in, then what shows it is drawn.
//
// What comes is taken in thirty times a second at most: nobody reads faster, and the frames between are the hand's, who
// drags or scrolls. A single event waits for no more than the next frame.

export interface Frames {
  /** Runs before the next frame is drawn; in a tab that nobody sees, a quarter of a second from now. */
  readonly take: (run: () => void) => void;
  /** Runs in the next frame, after all that is taken in; in the same one if it is asked for meanwhile. */
  readonly draw: (run: (now: number) => void) => void;
  readonly cancel: (run: (now: number) => void) => void;
}

/** Between two takings in, in milliseconds: two frames of sixty a second. */
const apart = 25;
/** A tab in the background has no frames. */
const unseen = 250;

export function createFrames(window: Window): Frames {
  const takes = new Set<() => void>();
  const draws = new Set<(now: number) => void>();
  let frame = 0;
  let timer = 0;
  let taking = false;
  let taken = -Infinity;

  const each = <T extends (now: number) => void>(all: Set<T>, now: number): void => {
    const some = [...all];
    all.clear();
    for (const run of some) {
      try {
        run(now);
      } catch (error) { // its own, and stops nobody else
        queueMicrotask(() => { throw error; });
      }
    }
  };
  const takeAll = (now: number): void => {
    window.clearTimeout(timer);
    timer = 0;
    taken = now;
    taking = true;
    each(takes, now);
    taking = false;
  };
  const ask = (): void => {
    frame ||= window.requestAnimationFrame((now) => {
      frame = 0;
      if (takes.size && now - taken >= apart) takeAll(now);
      each(draws, now);
      if (takes.size) ask();
    });
  };
  return {
    take: (run) => {
      takes.add(run);
      ask();
      timer ||= window.setTimeout(() => {
        takeAll(taken);
        if (draws.size) ask();
      }, unseen);
    },
    draw: (run) => {
      draws.add(run);
      if (!taking) ask();
    },
    cancel: (run) => void draws.delete(run),
  };
}
