// The client whose tabs share one stream. One tab leads: it follows what all of them want, and is their server.
import { hostWith, type Host } from './host.ts';
import { member, type Member } from './member.ts';
import { TopologyStream as Alone, type Listeners, type Options as AloneOptions } from './stream.ts';
import type { Connection, StreamState } from './types.ts';

export { applyGraph } from './graph.ts';
export { RefusedError, type Listeners } from './stream.ts';
export type * from './types.ts';

export interface Options<E = unknown> extends AloneOptions<E> {
  /**
   * Tabs that give the same key share one stream: they get what any of their tokens may see. So the key names the user,
   * and what else tokens differ by. Nothing: this tab has a stream of its own.
   */
  share?: string;
}

/** A TopologyStream that may share its stream with the other tabs of the page's origin. */
export class TopologyStream<E = unknown> extends Alone<E> {
  constructor(options: Options<E> = {}) {
    const { share, onEvent, onConnection, onViolation, ...rest } = options;
    const base = options.host ?? (globalThis as Host);
    let tab: Member | undefined;
    super(share === undefined ? options : {
      ...rest, host: hostWith(base, (input, init) => tab!._fetch(input as string, init!)),
    });
    if (share === undefined) return;

    const { on, open, reconnect, close, getSnapshot } = this;
    const own = { change: new Set<() => void>(), connection: new Set<(connection: Connection) => void>() };
    let listening = false;
    let told: Connection['state'] = 'idle';
    let inner: StreamState | undefined; // what `made` is made of
    let made: StreamState;

    /** This tab's state is different, or what it is told of the others. */
    const changed = (): void => {
      inner = undefined;
      const { connection } = this.getSnapshot();
      // What one of them throws stops nobody else.
      for (const listener of own.change) queueMicrotask(listener);
      if (connection.state === told) return;
      told = connection.state;
      for (const listener of own.connection) queueMicrotask(() => listener(connection));
    };

    tab = member(base, rest, share, getSnapshot, changed);

    const mine: Partial<Alone<E>> = {
      open: () => {
        if (listening) return;
        listening = true;
        on('change', changed);
        open();
      },
      on: (name, listener) => {
        const to = (own as Partial<Record<keyof Listeners, Set<unknown>>>)[name];
        if (!to) return on(name, listener);
        to.add(listener);
        this.open();
        return () => void to.delete(listener);
      },
      reconnect: () => {
        reconnect();
        tab._again();
      },
      close: () => {
        close();
        tab._leave();
      },
      getSnapshot: () => {
        const now = getSnapshot();
        if (inner !== now) {
          inner = now;
          // A stream from the leader is open while the leader's own is not.
          const connection = now.connection.state === 'open' && tab._connection() || now.connection;
          made = { ...now, connection, tabs: tab._tabs() };
        }
        return made;
      },
    };
    Object.assign(this, mine);
    options.signal?.addEventListener('abort', this.close);

    if (onEvent) this.on('event', onEvent);
    if (onConnection) this.on('connection', onConnection);
    if (onViolation) this.on('violation', onViolation);
  }
}
