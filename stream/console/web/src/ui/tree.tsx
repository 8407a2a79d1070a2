/** JSON as a tree that opens and closes: its first level is open. */
export function Tree({ value, name, depth = 0 }: { value: unknown; name: string; depth?: number }) {
  if (value === null || typeof value !== 'object') {
    return (
      <div class="leaf">
        <span class="key">{name}</span> <code data-type={typeof value}>{JSON.stringify(value)}</code>
      </div>
    );
  }
  const entries = Object.entries(value);
  const isList = Array.isArray(value);
  if (!entries.length) {
    return <div class="leaf"><span class="key">{name}</span> <code>{isList ? '[]' : '{}'}</code></div>;
  }
  const shown = entries.slice(0, 200);
  return (
    <details class="tree" open={depth < 2 && entries.length <= 20}>
      <summary>
        <span class="key">{name}</span> <span class="quiet">{isList ? `${entries.length} items` : ''}</span>
      </summary>
      {shown.map(([key, each]) => <Tree key={key} name={key} value={each} depth={depth + 1} />)}
      {entries.length > shown.length && <div class="leaf quiet">and {entries.length - shown.length} more</div>}
    </details>
  );
}
