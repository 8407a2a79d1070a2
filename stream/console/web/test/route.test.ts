import fc from 'fast-check';
import { expect, test } from 'vitest';
import { formatRoute, parseRoute, type Route, type Selection } from '../src/state/route.ts';

const selection = fc.record<Selection>({
  kind: fc.constantFrom('lan', 'decky', 'edge', 'mutation', 'event'), key: fc.string({ minLength: 1 }),
});
const route = fc.record<Route>({
  topology: fc.option(fc.uuid()), selection: fc.array(selection), search: fc.string(), status: fc.string(),
  sort: fc.string(), filter: fc.string(), at: fc.option(fc.maxSafeNat()), view: fc.constantFrom('graph', 'table'),
  panel: fc.string(),
});

test('an address is read as the route that it was written from', () => {
  fc.assert(fc.property(route, (r) => {
    expect(parseRoute(formatRoute(r))).toEqual(r);
  }));
});
