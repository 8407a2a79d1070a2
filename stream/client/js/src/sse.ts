// The parser of Server-Sent Events as the WHATWG HTML standard, section 9.2.6, interprets a stream.

/** One dispatched event. Unlike EventSource's `lastEventId`, `id` is null where this event had no id of its own. */
export interface Frame {
  readonly event: string;
  readonly data: string;
  readonly id: string | null;
}

/**
 * Gives a parser of one stream: a function that takes the bytes as they come, cut anywhere, and calls back for each
 * event and each reconnection time (milliseconds). An event that its empty line has not ended is never given.
 */
export function parser(onFrame: (frame: Frame) => void, onRetry: (ms: number) => void): (bytes: Uint8Array) => void {
  const decoder = new TextDecoder(); // takes a leading BOM away, and replaces what is no UTF-8
  let rest = ''; // of a line whose end has not come
  let skipLF = false; // a CR was the last character so far: a LF that follows belongs to it
  let event = '';
  let data: string | null = null;
  let id: string | null = null;

  function line(text: string): void {
    if (!text) {
      if (data !== null) onFrame({ event: event || 'message', data, id });
      event = '';
      data = id = null;
      return;
    }
    const colon = text.indexOf(':');
    const field = colon < 0 ? text : text.slice(0, colon); // empty for a comment
    const value = colon < 0 ? '' : text.slice(colon + (text[colon + 1] === ' ' ? 2 : 1));
    if (field === 'data') data = data === null ? value : `${data}\n${value}`;
    else if (field === 'event') event = value;
    else if (field === 'id' && !value.includes('\0')) id = value;
    else if (field === 'retry' && /^\d+$/.test(value)) onRetry(+value);
  }

  return (bytes) => {
    let text = decoder.decode(bytes, { stream: true });
    if (!text) return;
    if (skipLF && text[0] === '\n') text = text.slice(1);
    skipLF = text.endsWith('\r');
    // Only what is new is searched, so that a line of many megabytes costs no more than its length.
    const ends = /\r\n?|\n/g;
    let start = 0;
    for (let end; (end = ends.exec(text)); start = ends.lastIndex) {
      const whole = rest + text.slice(start, end.index);
      rest = '';
      line(whole);
    }
    rest += text.slice(start);
  };
}
