import { useEffect, useId, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { fieldOf, type Field, type Form, type Values } from '../edit/forms.ts';
import type { FieldError } from '../edit/ops.ts';
import { useApp } from './context.ts';
import { modalKeys, useModal } from './dialog.tsx';

/** The dialog of editing: a form, with what is wrong at its field. Escape closes it, the keyboard stays within. */
export function EditDialog() {
  const { editing } = useApp();
  const form = editing.form.value;
  return form && <FormDialog key={form.title} form={form} />;
}

function FormDialog({ form }: { form: Form }) {
  const { editing: { edit, form: shown } } = useApp();
  const ref = useRef<HTMLDialogElement>(null);
  const id = useId();
  const [values, setValues] = useState<Values>(() =>
    Object.fromEntries(form.fields.map(({ name, value }) => [name, value])));
  const [error, setError] = useState<FieldError | null>(null);
  // The browser tells that a dialog was closed when another one may stand already.
  const close = (): void => { if (shown.peek() === form) shown.value = null; };
  useModal(ref);
  useLayoutEffect(() => {
    const first = ref.current?.querySelector<HTMLElement>('input, select, button[type=submit]');
    first?.focus();
    if (first instanceof HTMLInputElement && first.type === 'text') first.select();
  }, []);
  useEffect(() => {
    if (error) ref.current?.querySelector<HTMLElement>(`[name="${CSS.escape(error.field)}"]`)?.focus();
  }, [error]);

  const submit = (event: Event): void => {
    event.preventDefault();
    const answer = form.ops(values);
    if ('problem' in answer) {
      setError(answer);
      return;
    }
    const can = edit.check(...answer);
    if (can !== true) {
      setError({ field: fieldOf(form, can) ?? '', problem: can });
      return;
    }
    edit.stage(...answer);
    close();
  };
  const change = (name: string, value: string | boolean): void => {
    const next = { ...values, [name]: value };
    setValues(form.follow?.(next, name) ?? next);
    setError(null);
  };
  const named = form.fields.some(({ name }) => name === error?.field);
  return (
    <dialog ref={ref} class="edit-dialog" aria-labelledby={`${id}-title`} onClose={close}
      onKeyDown={modalKeys(close)}>
      <form onSubmit={submit} noValidate>
        <h2 id={`${id}-title`}>{form.title}</h2>
        {form.text && <p>{form.text}</p>}
        {form.fields.map((field) => (
          <FieldRow key={field.name} id={`${id}-${field.name}`} field={field} value={values[field.name]!}
            error={error?.field === field.name ? error.problem : null}
            onChange={(value) => change(field.name, value)} />
        ))}
        {error && !named && <p class="edit-error" role="alert">{error.problem}</p>}
        <div class="edit-buttons">
          <button type="button" class="edit-button" onClick={close}>Cancel <kbd>Esc</kbd></button>
          <button type="submit" class="edit-button edit-primary">{form.submit} <kbd>↵</kbd></button>
        </div>
      </form>
    </dialog>
  );
}

function FieldRow({ id, field, value, error, onChange }: {
  id: string; field: Field; value: string | boolean; error: string | null; onChange: (value: string | boolean) => void;
}) {
  const { name, label, kind, hint, options = [] } = field;
  const said = [error && `${id}-error`, hint && `${id}-hint`].filter(Boolean).join(' ') || undefined;
  const common = { id, name, 'aria-describedby': said, 'aria-invalid': error ? true : undefined };
  if (kind === 'radio') {
    return (
      <fieldset class="edit-field">
        <legend>{label}</legend>
        {options.map((option) => (
          <label key={option.value} class="edit-flag">
            <input type="radio" name={name} value={option.value} checked={value === option.value}
              onChange={() => onChange(option.value)} />
            {option.label}
          </label>
        ))}
      </fieldset>
    );
  }
  if (kind === 'flag') {
    return (
      <label class="edit-flag">
        <input {...common} type="checkbox" checked={value === true}
          onChange={(event) => onChange(event.currentTarget.checked)} />
        {label}
      </label>
    );
  }
  return (
    <div class="edit-field">
      <label for={id}>{label}</label>
      {kind === 'choice'
        ? <select {...common} value={String(value)} onChange={(event) => onChange(event.currentTarget.value)}>
            {options.map((option) => (
              <option key={option.value} value={option.value} selected={option.value === value}>{option.label}</option>
            ))}
          </select>
        : <input {...common} type="text" autocomplete="off" spellcheck={false} value={String(value)}
            onInput={(event) => onChange(event.currentTarget.value)} />}
      {error && <p id={`${id}-error`} class="edit-error" role="alert">{error}</p>}
      {hint && <p id={`${id}-hint`} class="edit-hint">{hint}</p>}
    </div>
  );
}
