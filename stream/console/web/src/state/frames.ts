// Does the work of a frame of the screen once: first takes in what has come, then draws what shows it.
//
// What comes is taken in thirty times a second at most: nobody reads faster, and the frames between are left to whoever
// drags or scrolls. A single event waits for no more than the next frame.

export interface Frames {
  /** Runs before the next frame is drawn; in a tab that nobody sees, a quarter of a second from now. */
  readonly take: (run: () => void) => void;
  /** Runs in the next frame, after all that is taken in; in the same one if it is asked for meanwhile. */
  readonly draw: (run: (now: number) => void) => void;
  readonly cancel: (run: (now: number) => void) => void;
}

/** The least time between two takings in, in milliseconds: at sixty frames a second every other frame. */
const apart = 25;
/** A tab in the background has no frames: what comes is taken in after so many milliseconds. */
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
      } catch (error) { // its owner's, and stops nobody else
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
