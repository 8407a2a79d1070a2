import { useEffect } from 'preact/hooks';
import { useApp } from './context.ts';
import { Copy } from './copy.tsx';
import { pretty } from './json.tsx';
import { Payload, toneOf } from './timeline.tsx';

/** An event in the inspector: what it is, who asked for it, and its payload. */
export function EventView({ seq }: { readonly seq: number }) {
  const { timeline, signature, route } = useApp();
  void timeline.version.value;
  const entry = timeline.entry(seq);
  const have = signature.count.value.have;
  const known = entry !== undefined;
  useEffect(() => { if (!known && have !== null) void timeline.fetchEntry(seq); }, [seq, known, have !== null]);
  const who = timeline.who(entry?.mutation ?? null);
  useEffect(() => { if (entry?.mutation && who === undefined) timeline.wantWho([entry.mutation]); });
  if (!entry) return <p class="hint" role="status">Event {seq} is not here; if the journal has it, it comes.</p>;
  return (
    <div class="event-view" data-event={seq}>
      <h2 data-tone={toneOf(entry)}>{entry.type}</h2>
      <p>{entry.summary}</p>
      <dl>
        <dt>seq</dt><dd class="mono">{seq}</dd>
        <dt>recorded</dt><dd class="mono">{entry.ts}</dd>
        {entry.mutation && <><dt>mutation</dt><dd class="mono">
          <button type="button" class="quiet-button"
            onClick={() => route.go({ selection: [{ kind: 'mutation', key: entry.mutation! }] })}>
            {entry.mutation}
          </button>
        </dd></>}
        {entry.mutation && <><dt>asked by</dt><dd>{who === undefined ? '…' : who || 'nobody says'}</dd></>}
      </dl>
      <div class="event-payload"><h3>Payload</h3><Copy text={() => pretty(entry.payload)} /></div>
      <Payload payload={entry.payload} />
    </div>
  );
}
