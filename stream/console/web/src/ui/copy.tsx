import { useState } from 'preact/hooks';

/** A button that copies a text, and says so for a moment. */
export function Copy({ text, label = 'Copy' }: { readonly text: () => string; readonly label?: string }) {
  const [said, say] = useState('');
  const copy = async (): Promise<void> => {
    try {
      await navigator.clipboard.writeText(text());
      say('Copied');
    } catch { // no HTTPS, or not allowed
      say('Not allowed here');
    }
    setTimeout(() => say(''), 2000);
  };
  return <button type="button" class="quiet-button" onClick={() => void copy()} aria-live="polite">
    {said || label}
  </button>;
}

/** A line to type elsewhere, with a button that copies it. */
export function Line({ text }: { readonly text: string }) {
  return <div class="line"><code>{text}</code><Copy text={() => text} /></div>;
}
