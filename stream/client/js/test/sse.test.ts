import { expect, test } from 'vitest';
import { parser, type Frame } from '../src/sse.ts';

function parse(chunks: Uint8Array[]): { frames: Frame[]; retries: number[] } {
  const frames: Frame[] = [];
  const retries: number[] = [];
  const push = parser((frame) => frames.push(frame), (ms) => retries.push(ms));
  for (const chunk of chunks) push(chunk);
  return { frames, retries };
}

const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const of = (text: string): Frame[] => parse([bytes(text)]).frames;

test('lines end with LF, CR or CRLF, in any mixture', () => {
  expect(of('event: a\rdata: 1\r\n\ndata: 2\n\r')).toEqual([
    { event: 'a', data: '1', id: null }, { event: 'message', data: '2', id: null },
  ]);
});

test('a CRLF that is cut between two chunks is one end of a line', () => {
  expect(parse([bytes('data: a\r'), bytes('\ndata: b\r'), bytes('\n\r'), bytes('\n')]).frames)
    .toEqual([{ event: 'message', data: 'a\nb', id: null }]);
});

test('an event is given as soon as its empty line is there, without waiting for a LF after CR', () => {
  expect(of('data: a\r\r')).toHaveLength(1);
});

test('a byte order mark at the beginning is no part of the first field, one within is', () => {
  expect(of('\uFEFFdata: a\n\n')).toEqual([{ event: 'message', data: 'a', id: null }]);
  expect(of('data: b\n\n\uFEFFdata: a\n\n')).toHaveLength(1);
});

test('several data lines are joined, an empty one counts, one space after the colon goes', () => {
  expect(of('data:a\ndata:  b\ndata\ndata:\n\n')[0]!.data).toBe('a\n b\n\n');
  expect(of('data\n\n')[0]!.data).toBe('');
});

test('an event without data is none, and leaves its name to nobody', () => {
  expect(of('event: x\nid: 7\n\ndata: a\n\n')).toEqual([{ event: 'message', data: 'a', id: null }]);
});

test('comments and unknown fields say nothing', () => {
  expect(of(': keepalive\nfoo: bar\ndatax: 1\ndata: a\n\n')).toEqual([{ event: 'message', data: 'a', id: null }]);
});

test('an id with NUL is ignored, and the ids of events do not carry over', () => {
  expect(of('id: 1\ndata: a\n\nid: 2\0\ndata: b\n\ndata: c\n\n').map((f) => f.id)).toEqual(['1', null, null]);
});

test('a reconnection time is digits and nothing else', () => {
  expect(parse([bytes('retry: 2841\nretry: 1x\nretry:\nretry: -1\nretry:07\n')]).retries).toEqual([2841, 7]);
});

test('an event that no empty line has ended is not given', () => {
  expect(of('data: a\n')).toEqual([]);
});

test('however a stream is cut into chunks, within characters, too, the events are the same', () => {
  const text = '\uFEFFevent: ä€😀\r\nid: 1\r\ndata: é\rdata: 😀\n\n: c\r\n\r\nretry: 5\ndata: last\r\r\n';
  const whole = parse([bytes(text)]);
  expect(whole.frames).toHaveLength(2);
  const all = bytes(text);
  for (let i = 0; i <= all.length; i++) {
    for (const j of [i, Math.min(i + 1, all.length), Math.min(i + 3, all.length)]) {
      expect(parse([all.slice(0, i), all.slice(i, j), all.slice(j)])).toEqual(whole);
    }
  }
  expect(parse([...all].map((byte) => Uint8Array.of(byte)))).toEqual(whole);
});

test('what is no UTF-8 becomes a replacement character', () => {
  expect(parse([Uint8Array.of(...bytes('data: '), 0xff, 10, 10)]).frames[0]!.data).toBe('\uFFFD');
});
