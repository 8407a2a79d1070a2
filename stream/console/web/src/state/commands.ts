// What can be done by key, by menu and by Ctrl-K: one registry, so that all three say the same.
import { signal, type ReadonlySignal } from '@preact/signals';

export interface Command {
  readonly id: string;
  readonly title: string;
  /** Where it stands in the palette: "Topology", "Graph", "Edit", "Timeline", "View". */
  readonly group: string;
  /** For example "Mod-K", "/", "Escape"; Mod is Ctrl, on a Mac Command. */
  readonly keys?: string;
  /** Another key that means the same. */
  readonly also?: string;
  /** True, or the reason why it cannot be done now. */
  readonly enabled?: () => true | string;
  readonly run: () => void;
}

export interface Commands {
  readonly all: ReadonlySignal<readonly Command[]>;
  /** Adds commands until the function that it gives is called. */
  readonly add: (...commands: Command[]) => () => void;
  /** Runs a command by id, if it can be done; gives the reason if not. */
  readonly run: (id: string) => true | string;
  /** Runs the command of a key; false if there is none, or if it cannot run now. */
  readonly onKey: (event: KeyboardEvent) => boolean;
}

/** Whether a key is for an input method, which is writing a word: its Enter takes the word, its Escape leaves it. */
export const isComposing = (event: KeyboardEvent): boolean =>
  event.isComposing || event.keyCode === 229; // Safari says the former too late (UI Events, section 5.7.3)

/** The key's letter; on a layout of another script the Latin letter of its place, as keyboards have it printed. */
function letterOf(event: KeyboardEvent): string {
  const { key, code } = event;
  const place = /^Key([A-Z])$/.exec(code)?.[1];
  if (!place || key.length !== 1 || key <= '\x7f' || event.getModifierState('AltGraph')) return key;
  return event.shiftKey ? place : place.toLowerCase();
}

/** Names a key as `Command.keys` does. */
export function nameOfKey(event: KeyboardEvent): string {
  const mod = event.ctrlKey || event.metaKey ? 'Mod-' : '';
  const letter = letterOf(event);
  const isLetter = letter.length === 1 && letter.toUpperCase() !== letter.toLowerCase();
  const shift = event.shiftKey && (letter.length > 1 || mod && isLetter) ? 'Shift-' : ''; // "?" has it already
  const key = letter.length > 1 ? letter : mod ? letter.toUpperCase()
    : isLetter && !event.shiftKey ? letter.toLowerCase() : letter; // Caps Lock is no Shift
  return mod + (event.altKey ? 'Alt-' : '') + shift + key;
}

const isTyping = (target: EventTarget | null): boolean =>
  target instanceof HTMLElement && (target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName));

/** Keys with Mod that mean something to a text field. */
const ofText = /^Mod-(Shift-)?([ACVXYZ]|Delete|Backspace|Arrow.*|Home|End)$/;

/** Whether a key is for the text that somebody is typing, or has selected. */
function isForText(event: KeyboardEvent, name: string): boolean {
  if (isTyping(event.target)) return (!name.startsWith('Mod-') || ofText.test(name)) && name !== 'Escape';
  return name === 'Mod-C' && document.getSelection()?.isCollapsed === false;
}

/** `tell` gets the reason when the command of a key cannot run, and null when the next one does. */
export function createCommands(tell: (refused: string | null) => void): Commands {
  const all = signal<readonly Command[]>([]);
  const attempt = (command: Command): true | string => {
    const can = command.enabled?.() ?? true;
    if (can === true) command.run();
    return can;
  };
  return {
    all,
    add: (...commands) => {
      all.value = [...all.value, ...commands];
      return () => { all.value = all.value.filter((command) => !commands.includes(command)); };
    },
    run: (id) => {
      const command = all.value.find((c) => c.id === id);
      return command ? attempt(command) : `there is no command ${id}`;
    },
    onKey: (event) => {
      if (isComposing(event)) return false;
      const name = nameOfKey(event);
      if (isForText(event, name)) return false;
      const command = all.value.findLast((c) => c.keys === name || c.also === name);
      if (!command) return false;
      const can = attempt(command);
      tell(can === true ? null : can);
      if (can !== true) return false;
      event.preventDefault();
      return true;
    },
  };
}
