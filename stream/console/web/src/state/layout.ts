// How the page is divided: which panes are open and how large they are, kept for the next time; and its colours.
import { effect, signal, type Signal } from '@preact/signals';

export type Pane = 'list' | 'inspector' | 'timeline';
export type Theme = 'auto' | 'dark' | 'light';
/** On a small screen there is one pane at a time. */
export type Tab = 'list' | 'graph' | 'timeline' | 'inspector';

export interface Layout {
  readonly open: Record<Pane, Signal<boolean>>;
  readonly size: Record<Pane, Signal<number>>;
  readonly theme: Signal<Theme>;
  readonly small: Signal<boolean>;
  readonly tab: Signal<Tab>;
}

export const sizes: Record<Pane, { readonly usual: number; readonly min: number; readonly max: number }> = {
  list: { usual: 280, min: 200, max: 560 },
  inspector: { usual: 340, min: 240, max: 640 },
  timeline: { usual: 200, min: 104, max: 640 },
};

interface Kept {
  open?: Partial<Record<Pane, boolean>>;
  size?: Partial<Record<Pane, number>>;
  theme?: Theme;
}

const key = 'topostream.layout';

export function createLayout(window: Window & typeof globalThis): Layout {
  let kept: Kept = {};
  try {
    kept = JSON.parse(window.localStorage.getItem(key) ?? '{}') as Kept;
  } catch { // nothing is kept, or nothing that we wrote
  }
  const open = (pane: Pane): Signal<boolean> => signal(kept.open?.[pane] !== false);
  const size = (pane: Pane): Signal<number> => {
    const { usual, min, max } = sizes[pane];
    const n = Number(kept.size?.[pane]);
    return signal(n >= min && n <= max ? n : usual);
  };
  const narrow = window.matchMedia('(max-width: 699px)');
  const layout: Layout = {
    open: { list: open('list'), inspector: open('inspector'), timeline: open('timeline') },
    size: { list: size('list'), inspector: size('inspector'), timeline: size('timeline') },
    theme: signal(kept.theme === 'dark' || kept.theme === 'light' ? kept.theme : 'auto'),
    small: signal(narrow.matches),
    tab: signal<Tab>('list'),
  };
  narrow.addEventListener('change', () => { layout.small.value = narrow.matches; });
  effect(() => {
    const { dataset } = window.document.documentElement;
    if (layout.theme.value === 'auto') delete dataset.theme;
    else dataset.theme = layout.theme.value;
  });
  effect(() => {
    const now = { open: {}, size: {}, theme: layout.theme.value } as Required<Kept>;
    for (const pane of Object.keys(sizes) as Pane[]) {
      now.open[pane] = layout.open[pane].value;
      now.size[pane] = layout.size[pane].value;
    }
    try {
      window.localStorage.setItem(key, JSON.stringify(now));
    } catch { // a private window may keep nothing
    }
  });
  return layout;
}
