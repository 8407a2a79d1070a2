// Keeps the focus of the keyboard on the page. The focused element may go: its row is removed, its button disabled, its
// pane closed. The browser then focuses the body, and nobody sees where the keyboard is.

const focusable = 'a[href], button:not([disabled]), input:not([disabled]), select, textarea, [tabindex="0"]';
/** What is focused if nothing around the lost element is left: the graph, the list, whatever there is. */
const homes = ['canvas[role=application]', '[role=listbox][aria-label=Topologies]', 'main button', '#list-search',
  'header button'];

/** When the focused element goes, focuses the nearest one that stays; until the function that it gives is called. */
export function keepFocus(window: Window & typeof globalThis): () => void {
  const { document } = window;
  let path: Element[] = []; // the focused element and its ancestors, inner first
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
    // A press on nothing takes the focus away as well, and that is meant.
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
  // In the next frame: a menu or dialog that closes gives the focus back by itself.
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
