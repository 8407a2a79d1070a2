import type { ComponentChildren } from 'preact';
import { useRef } from 'preact/hooks';
import { useApp } from './context.ts';
import { modalKeys, useModal } from './dialog.tsx';

/** A dialog that holds the focus until it is closed; Escape closes it. Which one is open is in the address. */
export function Dialog({ title, children }: { title: string; children: ComponentChildren }) {
  const { route, steps } = useApp();
  const ref = useRef<HTMLDialogElement>(null);
  useModal(ref);
  const close = (): void => {
    steps.forget();
    route.go({ panel: '' });
  };
  return (
    <dialog
      ref={ref} class="dialog" aria-labelledby="dialog-title"
      onCancel={(event) => { event.preventDefault(); close(); }} onKeyDown={modalKeys(close)}
    >
      <h2 id="dialog-title">{title}</h2>
      {children}
    </dialog>
  );
}

/** The buttons below a dialog's form. */
export function Buttons(
  { go, danger = false, disabled = false }: { go: string; danger?: boolean; disabled?: boolean },
) {
  const { route, steps } = useApp();
  return (
    <div class="buttons">
      <button type="button" class="button" onClick={() => { steps.forget(); route.go({ panel: '' }); }}>Cancel</button>
      <button type="submit" class={danger ? 'button danger' : 'button primary'} disabled={disabled || steps.busy.value}>
        {go}
      </button>
    </div>
  );
}

/** What the server said, in its words, unless it is shown at a field. */
export function Refusal({ shown = false }: { shown?: boolean }) {
  const problem = useApp().steps.problem.value;
  if (!problem || shown) return null;
  return <p class="refusal" role="alert" data-status={problem.status}>{problem.message}</p>;
}
