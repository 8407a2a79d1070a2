// Where the keyboard is: what it was on may go, because its row is gone, its button cannot be pressed any more or its
// pane was closed. The browser then gives it to the body, from where nothing is seen to be chosen.

const focusable = 'a[href], button:not([disabled]), input:not([disabled]), select, textarea, [tabindex="0"]';
/** Where one goes on if nothing around is left: the graph, the list, whatever there is. */
const homes = ['canvas[role=application]', '[role=listbox][aria-label=Topologies]', 'main button', '#list-search',
  'header button'];

/** Keeps the focus on the page: what goes while it has it gives it to the nearest that stays. */
export function keepFocus(window: Window & typeof globalThis): () => void {
  const { document } = window;
  let path: Element[] = []; // what has the focus, and what that is in, inner first
  const isShown = (element: HTMLElement): boolean => element.isConnected && element.getClientRects().length > 0;
  const take = (): void => {
    const now = document.activeElement;
    if (!now || now === document.body) return;
    path = [];
    for (let at: Element | null = now; at && at !== document.body; at = at.parentElement) path.push(at);
  };
  const lost = (): boolean => {
    const [had] = path;
    if (!had || (document.activeElement && document.activeElement !== document.body)) return false;
    // Who presses the pointer on nothing takes it away, and may.
    return !had.isConnected || had.matches(':disabled') || (had as HTMLElement).getClientRects().length === 0;
  };
  const give = (): void => {
    if (!lost() || document.querySelector('dialog[open]')) return;
    const around = path.slice(1).filter((element) => element.isConnected && element.id !== 'console');
    const choices = [
      ...around.slice(0, 3).flatMap((element) => [element, ...element.querySelectorAll(focusable)]),
      ...homes.flatMap((selector) => [...document.querySelectorAll(selector)]),
    ] as HTMLElement[];
    for (const element of choices) {
      if (!isShown(element)) continue;
      element.focus({ preventScroll: true });
      if (document.activeElement === element) return;
    }
  };
  document.addEventListener('focusin', take);
  // After what removed it has had its turn: a menu or dialog that closes gives the focus back by itself.
  let waiting = false;
  const observer = new window.MutationObserver(() => {
    if (waiting || !lost()) return;
    waiting = true;
    window.requestAnimationFrame(() => {
      waiting = false;
      give();
    });
  });
  observer.observe(document.body, {
    subtree: true, childList: true, attributes: true, attributeFilter: ['disabled', 'hidden'],
  });
  return () => {
    observer.disconnect();
    document.removeEventListener('focusin', take);
  };
}
