import type { ComponentChildren, RefObject } from 'preact';
import { useLayoutEffect, useRef } from 'preact/hooks';
import { isComposing } from '../state/commands.ts';
import '../style/dialog.css';

interface Props {
  readonly label: string;
  readonly class?: string;
  readonly onClose: () => void;
  /** It stays until what it asks for is there. */
  readonly stays?: boolean;
  readonly children: ComponentChildren;
}

/**
 * Opens a dialog over everything, and gives the focus back to what had it when the dialog goes. It opens with what was
 * asked for it, not after the next frame: what is typed meanwhile would go to the page, and be its commands.
 */
export function useModal(ref: RefObject<HTMLDialogElement | null>): void {
  useLayoutEffect(() => {
    const dialog = ref.current!;
    const before = document.activeElement;
    if (!dialog.open) dialog.showModal();
    return () => {
      dialog.close();
      if (before instanceof HTMLElement && before.isConnected) before.focus();
    };
  }, []);
}

/**
 * What a dialog's keys do: Escape closes it, and none reaches the page. The browser does so by itself only where it
 * finds that somebody wanted the dialog, and lets a second Escape through.
 */
export const modalKeys = (close: () => void) => (event: KeyboardEvent): void => {
  event.stopPropagation();
  if (event.key !== 'Escape' || isComposing(event)) return;
  event.preventDefault();
  close();
};

/** A modal dialog: the browser keeps the focus within, Escape and a press beside it close it. */
export function Dialog({ label, onClose, stays = false, children, ...rest }: Props) {
  const ref = useRef<HTMLDialogElement>(null);
  useModal(ref);
  return (
    <dialog
      ref={ref} aria-label={label} class={rest.class ?? ''}
      onCancel={(event) => { event.preventDefault(); if (!stays) onClose(); }}
      onKeyDown={modalKeys(() => { if (!stays) onClose(); })}
      onMouseDown={(event) => { if (!stays && event.target === ref.current) onClose(); }}
    >
      <div class="dialog-body">{children}</div>
    </dialog>
  );
}
