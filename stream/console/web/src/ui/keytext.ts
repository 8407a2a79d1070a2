const words: Readonly<Record<string, string>> = {
  ArrowLeft: '←', ArrowRight: '→', ArrowUp: '↑', ArrowDown: '↓', Delete: 'Del', Enter: '↵', Escape: 'Esc',
};

/** Writes the keys of a command as keyboards have them: "Ctrl Z"; on a Mac "⌘ Z". */
export function keyText(keys: string): string {
  const mod = /Mac|iPhone|iPad/.test(navigator.platform) ? '⌘' : 'Ctrl';
  return keys.split('-').map((key) => key === 'Mod' ? mod : words[key] ?? (key.length === 1 ? key.toUpperCase() : key))
    .join(' ');
}
