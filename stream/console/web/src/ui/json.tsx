import { useState } from 'preact/hooks';

/** A value of JSON as a tree that opens and closes; what is large or deep is closed at first. */
export function Json({ value, name, depth = 0 }: {
  readonly value: unknown; readonly name?: string; readonly depth?: number;
}) {
  const entries = Array.isArray(value) ? value.map((item, i) => [String(i), item] as const)
    : typeof value === 'object' && value !== null ? Object.entries(value) : null;
  const [open, setOpen] = useState(depth < 3 && (entries?.length ?? 0) <= 50);
  const [most, setMost] = useState(200);
  const label = name !== undefined && <><span class="json-name">{name}</span>{' '}</>;
  if (!entries) {
    return <div class="json-row">{label}<span class={'json-' + typeof value}>{literal(value)}</span></div>;
  }
  const [left, right] = Array.isArray(value) ? '[]' : '{}';
  if (!entries.length) return <div class="json-row">{label}<span class="json-object">{left}{right}</span></div>;
  return (
    <div>
      <button type="button" class="json-row json-toggle" aria-expanded={open} onClick={() => setOpen(!open)}>
        <span class="json-arrow" aria-hidden="true">{open ? '−' : '+'}</span>
        {label}<span class="json-object">{left}{entries.length}{right}</span>
      </button>
      {open && <div class="json-children">
        {entries.slice(0, most).map(([key, item]) => <Json key={key} name={key} value={item} depth={depth + 1} />)}
        {entries.length > most && <button type="button" class="quiet-button" onClick={() => setMost(most + 1000)}>
          {entries.length - most} more
        </button>}
      </div>}
    </div>
  );
}

const literal = (value: unknown): string => typeof value === 'string' ? JSON.stringify(value) : String(value);

/** A payload as text. */
export const pretty = (payload: unknown): string =>
  typeof payload === 'string' ? payload : JSON.stringify(payload, null, 2) ?? '';
