// The timeline's filter: words that must be there. `type:mutation.*`, `seq>400`, `by:alice`, `-word`, `"two words"`,
// `/a regular expression/`; anything else is text of the type, the summary or the payload.

/** What a filter looks at. */
export interface Filtered {
  readonly seq: number | null;
  readonly type: string;
  readonly summary: string;
  readonly payload: unknown;
  readonly by: string | null;
}

export type Filter =
  | { readonly test: (entry: Filtered) => boolean; readonly error: null; readonly empty: boolean; readonly by: boolean }
  | { readonly test: null; readonly error: string };

type Test = (entry: Filtered) => boolean;

const payloadText = ({ payload }: Filtered): string =>
  typeof payload === 'string' ? payload : JSON.stringify(payload) ?? '';

const contains = (text: string): Test => {
  const word = text.toLowerCase();
  return (entry) => entry.type.includes(word) || entry.summary.toLowerCase().includes(word)
    || payloadText(entry).toLowerCase().includes(word);
};

const glob = (pattern: string): RegExp =>
  new RegExp('^' + pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&')).join('.*') + '$');

const compares: Record<string, (a: number, b: number) => boolean> = {
  '=': (a, b) => a === b, '<': (a, b) => a < b, '>': (a, b) => a > b, '<=': (a, b) => a <= b, '>=': (a, b) => a >= b,
};

// A word, with what is in quotes or slashes in one piece.
const word = /-?(?:"[^"]*"|\/(?:\\.|[^\\/])+\/i?(?=\s|$)|[^\s"]\S*)/gy;

/** Reads a filter, or says what is wrong with it. */
export function parseFilter(text: string): Filter {
  const tests: Test[] = [];
  let by = false;
  for (let rest = text.trimStart(); rest;) {
    word.lastIndex = 0;
    const whole = word.exec(rest)?.[0];
    if (!whole) return { test: null, error: 'a quotation mark is not closed' };
    const negative = whole.startsWith('-') && whole.length > 1;
    const term = negative ? whole.slice(1) : whole;
    const test = parseTerm(term);
    if (typeof test === 'string') return { test: null, error: test };
    by ||= term.startsWith('by:');
    tests.push(negative ? (entry) => !test(entry) : test);
    rest = rest.slice(whole.length).trimStart();
  }
  return { test: (entry) => tests.every((test) => test(entry)), error: null, empty: !tests.length, by };
}

function parseTerm(term: string): Test | string {
  if (term.startsWith('"')) {
    return term.length > 1 && term.endsWith('"') ? contains(term.slice(1, -1)) : 'a quotation mark is not closed';
  }
  if (term.startsWith('/')) {
    const [, source, flags] = /^\/(.+)\/(i?)$/.exec(term) ?? [];
    if (!source) return 'a regular expression ends with a slash';
    try {
      const pattern = new RegExp(source, flags);
      return (entry) => pattern.test(entry.type) || pattern.test(entry.summary) || pattern.test(payloadText(entry));
    } catch {
      return 'this is no regular expression';
    }
  }
  const seq = /^seq(<=|>=|<|>|=|:)(.*)$/.exec(term);
  if (seq) {
    if (!/^\d{1,16}$/.test(seq[2]!)) return 'a seq is a number';
    const holds = compares[seq[1] === ':' ? '=' : seq[1]!]!;
    return (entry) => entry.seq !== null && holds(entry.seq, Number(seq[2]));
  }
  const field = /^([a-z_]+):(.*)$/.exec(term);
  if (!field) return contains(term);
  const [, name, value] = field;
  if (!value) return `${name}: what?`;
  if (name === 'type') {
    const pattern = glob(value);
    return (entry) => pattern.test(entry.type);
  }
  if (name === 'by') return (entry) => entry.by?.toLowerCase().includes(value.toLowerCase()) ?? false;
  if (name === 'is') {
    if (value === 'raw') return (entry) => entry.seq === null;
    if (value === 'failed') return (entry) => entry.type === 'mutation.failed' || /^to failed/.test(entry.summary);
    return 'is:raw or is:failed';
  }
  return `there is no field ${name}: type, seq, by, is`;
}
