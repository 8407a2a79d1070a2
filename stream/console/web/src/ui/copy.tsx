import { useState } from 'preact/hooks';

/** Copies text, also where the page was loaded without TLS and the browser keeps its clipboard to itself. */
async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const focused = document.activeElement as HTMLElement | null;
    const area = document.createElement('textarea');
    area.value = text;
    area.className = 'visually-hidden';
    (document.querySelector('dialog[open]') ?? document.body).append(area);
    area.select();
    const done = document.execCommand('copy');
    area.remove();
    focused?.focus({ preventScroll: true });
    return done;
  }
}

/** A button that copies a text, and says so for a moment. */
export function Copy({ text, label = 'Copy', look }: {
  readonly text: () => string; readonly label?: string; readonly look?: 'button' | 'quiet-button';
}) {
  const [said, say] = useState('');
  const run = async (): Promise<void> => {
    say(await copy(text()) ? 'Copied' : 'Not allowed here');
    setTimeout(() => say(''), 2000);
  };
  return <button type="button" class={look} aria-label={said || label} aria-live="polite"
    onClick={() => void run()}>
    {said || 'Copy'}
  </button>;
}

/** A line to type elsewhere, with a button that copies it. */
export function Line({ text }: { readonly text: string }) {
  return <div class="line"><code>{text}</code><Copy text={() => text} look="quiet-button" /></div>;
}
