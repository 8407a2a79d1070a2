// One HTTP stream: the request, its bytes, and the watch over their silence.
import type { Host } from './host.ts';
import { parser, type Frame } from './sse.ts';

const second = 1000;

/** What is asked for, and who is told. Names of the client's own begin with an underscore. */
export interface Exchange {
  _abort: AbortController;
  _request: () => Promise<Response>;
  _onOpen: () => void;
  _onFrame: (frame: Frame) => void;
  _onRetry: (ms: number) => void;
  /** Is called, every 5 s at least, while it waits for an answer or for bytes, with how long it has. */
  _onSilence: (ms: number) => void;
  /** Is called once or more. `status` is 0 where no answer came, `retryAfter` milliseconds or 0. */
  _onEnd: (problem: string, status: number, retryAfter: number) => void;
}

/** Carries one stream until it ends, is aborted, or no byte comes for so many milliseconds. It never rejects. */
export async function connect(host: Host, silence: number, exchange: Exchange): Promise<void> {
  let lastByte = host.performance.now();
  let status = 0;
  let timer: unknown;
  const end = (problem: string, retryAfter = 0): void => {
    host.clearTimeout(timer);
    exchange._abort.abort(); // a body that nobody reads holds its connection
    exchange._onEnd(problem, status, retryAfter);
  };
  const watch = (): void => {
    const silent = host.performance.now() - lastByte;
    if (silent >= silence) return end(`no byte came for ${silence} ms`);
    exchange._onSilence(silent);
    timer = host.setTimeout(watch, Math.min(5 * second, silence - silent));
  };
  watch();
  try {
    const response = await exchange._request();
    lastByte = host.performance.now();
    status = response.status;
    const { headers, body } = response;
    if (status === 200 && /^text\/event-stream/.test(headers.get('Content-Type')!)) {
      exchange._onOpen();
      const parse = parser(exchange._onFrame, exchange._onRetry);
      const reader = body!.getReader();
      for (let read; !(read = await reader.read()).done; parse(read.value)) lastByte = host.performance.now();
      end('the stream has ended');
    } else {
      const problem = (await response.json().catch(() => null)) as { detail?: string } | null;
      end(problem?.detail ?? 'HTTP ' + status, delayOf(headers.get('Retry-After')));
    }
  } catch (error) {
    end(`${(error as Error)?.message ?? error}`);
  }
}

/** Milliseconds of a Retry-After (RFC 9110, section 10.2.3): seconds or a date; 0 for anything else. */
function delayOf(header: string | null): number {
  return Math.max(0, (+header! >= 0 ? +header! * second : Date.parse(header!) - Date.now()) || 0);
}
