import { signal } from '@preact/signals';
import { expect, test, vi } from 'vitest';
import type { Edit } from '../src/edit/edit.ts';
import { createEditing } from '../src/edit/editing.ts';
import { nothing } from '../src/edit/staged.ts';
import { createCommands } from '../src/state/commands.ts';
import { parseRoute, type RouteState } from '../src/state/route.ts';
import { build } from './graphs.ts';

const [a, b] = ['00000000-0000-4000-8000-00000000000a', '00000000-0000-4000-8000-00000000000b'];

test('a form and a menu go with the topology that they are about, and with nothing else of the address', () => {
  vi.spyOn(window, 'fetch').mockResolvedValue(Response.json([]));
  const graph = build({ op: 'add_lan', payload: { name: 'office' } });
  const current = signal(parseRoute(`#/${a}`));
  const commands = createCommands(() => undefined);
  const { form, menu, intents } = createEditing(window as Window & typeof globalThis, {
    commands, route: { current, go: () => undefined } as unknown as RouteState, editable: signal<true | string>(true),
    edit: { graph: signal(graph), staged: signal(nothing), sending: signal({ state: 'none' }), notice: signal(null),
    } as unknown as Edit,
  });
  expect(commands.run('edit.add-lan')).toBe(true);
  intents.menu([], { x: 0, y: 0, lan: null }, { x: 0, y: 0 });
  current.value = parseRoute(`#/${a}?q=x`);
  expect([form.value?.title, menu.value?.title]).toEqual(['Add a subnet', 'Graph']);
  current.value = parseRoute(`#/${b}`);
  expect([form.value, menu.value]).toEqual([null, null]);
});
