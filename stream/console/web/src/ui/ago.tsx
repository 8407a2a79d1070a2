import { ago } from '../state/latency.ts';
import { useApp } from './context.ts';

/** How long ago something was, by the server's clock; only its text changes as time goes on. */
export function Ago({ ts }: { readonly ts: string }) {
  const { signature, live } = useApp();
  return <time dateTime={ts} title={new Date(ts).toLocaleString()}>
    {ago(signature.clock.value + live.offset.value - Date.parse(ts))}
  </time>;
}
