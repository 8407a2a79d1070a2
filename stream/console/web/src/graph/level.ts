// How much is drawn at a zoom.

/** far: LANs as blocks with counts; middle: deckies as dots; near: as cards. */
export type Level = 'far' | 'middle' | 'near';

export const levels = { middle: 0.26, near: 0.72 };

export function levelAt(zoom: number): Level {
  return zoom < levels.middle ? 'far' : zoom < levels.near ? 'middle' : 'near';
}
