import { afterEach, expect, test } from 'vitest';
import { createCommands, nameOfKey } from '../src/state/commands.ts';

const press = (key: string, more: KeyboardEventInit = {}): KeyboardEvent =>
  new KeyboardEvent('keydown', { key, cancelable: true, ...more });
const ctrl = { ctrlKey: true };
const ctrlShift = { ctrlKey: true, shiftKey: true };

/** Commands that say which of them ran, and the reasons that were told. */
function setUp() {
  const ran: string[] = [];
  const told: (string | null)[] = [];
  const commands = createCommands((reason) => { told.push(reason); });
  const run = (id: string) => ({ id, title: id, group: 'Edit', run: () => { ran.push(id); } });
  commands.add({ ...run('undo'), keys: 'Mod-Z' }, { ...run('redo'), keys: 'Mod-Y', also: 'Mod-Shift-Z' },
    { ...run('copy'), keys: 'Mod-C' }, { ...run('all'), keys: 'Mod-A' }, { ...run('keys'), keys: '?' },
    { ...run('menu'), keys: 'Shift-F10' }, { ...run('add'), keys: 'a', enabled: () => 'it is deploying' });
  return { commands, ran, told };
}

afterEach(() => document.body.replaceChildren());

test('Shift counts with Mod, of letters too, and where it makes another character it is in that', () => {
  const names = [press('z', ctrl), press('Z', ctrl), press('Z', ctrlShift), press('z', { ...ctrlShift, metaKey: true }),
    press('?', { shiftKey: true }), press('A', { shiftKey: true }), press('F10', { shiftKey: true }),
    press('ArrowLeft', { altKey: true })].map(nameOfKey);
  expect(names).toEqual(['Mod-Z', 'Mod-Z', 'Mod-Shift-Z', 'Mod-Shift-Z', '?', 'A', 'Shift-F10', 'Alt-ArrowLeft']);
});

test('a letter is that of its key also on a layout of another script, and while Caps Lock is on', () => {
  const altGr = press('ą', { code: 'KeyA' });
  Object.defineProperty(altGr, 'getModifierState', { value: (name: string) => name === 'AltGraph' });
  const names = [press('я', { code: 'KeyZ', ...ctrl }), press('Я', { code: 'KeyZ', ...ctrlShift }),
    press('а', { code: 'KeyF' }), press('é', { code: 'Digit2' }), press('F', { code: 'KeyF' }), altGr].map(nameOfKey);
  expect(names).toEqual(['Mod-Z', 'Mod-Shift-Z', 'f', 'é', 'f', 'ą']);
});

test('what an input method takes is no command', () => {
  const { commands, ran } = setUp();
  const composing = [press('z', { ...ctrl, isComposing: true }), press('z', { ...ctrl, keyCode: 229 })];
  expect(composing.map((key) => commands.onKey(key))).toEqual([false, false]);
  expect(ran).toEqual([]);
});

test('Ctrl-Shift-Z redoes, and the browser keeps its own keys with Ctrl and Shift', () => {
  const { commands, ran } = setUp();
  expect(commands.onKey(press('Z', ctrlShift))).toBe(true);
  expect(['C', 'V', 'A', 'K', 'F'].map((key) => commands.onKey(press(key, ctrlShift)))).not.toContain(true);
  expect(commands.onKey(press('z', ctrl))).toBe(true);
  expect(commands.onKey(press('y', ctrl))).toBe(true);
  expect(ran).toEqual(['redo', 'undo', 'redo']);
});

test('why a key does nothing is told, until one does something', () => {
  const { commands, told } = setUp();
  const key = press('a');
  expect(commands.onKey(key)).toBe(false);
  expect(key.defaultPrevented).toBe(false);
  commands.onKey(press('x')); // which means nothing
  commands.onKey(press('z', ctrl));
  expect(told).toEqual(['it is deploying', null]);
});

test('what is for text is left to it: what is typed and redone in a field, and a copy of what is selected', () => {
  const { commands, ran, told } = setUp();
  const field = document.createElement('input');
  const text = document.createElement('p');
  text.textContent = 'a reason';
  document.body.append(field, text);
  const typed = (event: KeyboardEvent): boolean => {
    Object.defineProperty(event, 'target', { value: field });
    return commands.onKey(event);
  };
  expect([press('a'), press('z', ctrl), press('Z', ctrlShift)].map(typed)).toEqual([false, false, false]);
  document.getSelection()!.selectAllChildren(text);
  commands.onKey(press('c', ctrl));
  expect(ran).toEqual([]);
  document.getSelection()!.removeAllRanges();
  commands.onKey(press('c', ctrl));
  expect(ran).toEqual(['copy']);
  expect(told).toEqual([null]);
});
