/** The beginning of a text, at most `n` UTF-16 units of it; no character is cut in two. */
export const beginning = (text: string, n: number): string =>
  text.slice(0, n).replace(/\p{Cs}$/u, '').trimEnd();
