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
  let afterCR = false; // a LF that comes next belongs to the CR before it
  let event = '';
  let data: string[] = [];
  let id: string | null = null;

  function line(text: string): void {
    const [, field, value] = /^([^:]*):? ?(.*)/s.exec(text) as unknown as [string, string, string]; // comment: no field
    if (!text) {
      if (data[0] !== undefined) onFrame({ event: event || 'message', data: data.join('\n'), id });
      event = '';
      data = [];
      id = null;
    } else if (field === 'data') data.push(value);
    else if (field === 'event') event = value;
    else if (field === 'id' && !value.includes('\0')) id = value;
    else if (field === 'retry' && /^\d+$/.test(value)) onRetry(+value);
  }

  return (bytes) => {
    const text = decoder.decode(bytes, { stream: true });
    if (!text) return; // a part of a character
    // Only what is new is searched, so that a line of many megabytes costs no more than its length.
    const lines = (afterCR && text[0] === '\n' ? text.slice(1) : text).split(/\r\n?|\n/);
    afterCR = text.endsWith('\r');
    lines[0] = rest + lines[0];
    rest = lines.pop()!;
    lines.forEach(line);
  };
}
