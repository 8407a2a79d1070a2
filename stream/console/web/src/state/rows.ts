// The list's rows in order: searched, filtered and sorted, and kept so as rows change.
import type { Summary, TopologyStatus } from 'topostream';

/** What the list may be sorted by; with a "-" before it the other way round. */
export const orders = ['name', 'status', 'version', 'in_flight', 'changed'] as const;
export type Order = (typeof orders)[number];

/** What is shown, and how, as the address says it. */
export interface Look {
  readonly search: string;
  /** A status, or nothing. */
  readonly status: string;
  readonly sort: string;
}

/** In the order in which the list sorts them: what needs somebody comes first. */
export const statuses: readonly TopologyStatus[] =
  ['failed', 'degraded', 'deploying', 'tearing_down', 'pending', 'active', 'torn_down'];

/** A row with what it is sorted by, worked out once. */
interface Entry {
  readonly row: Summary;
  readonly key: string | number;
  /** Orders what has the same key, so that every row has one place. */
  readonly name: string;
}

/** Names so that web-2 is before web-10. */
export const nameKey = (name: string): string => name.toLowerCase().replace(/\d+/g, (n) => n.padStart(12, '0'));

const keys: Record<Order, (row: Summary) => string | number> = {
  name: () => '',
  status: (row) => statuses.indexOf(row.status),
  version: (row) => -row.version, // the largest first
  in_flight: (row) => -row.in_flight,
  changed: (row) => -Date.parse(row.updated_at),
};

export function readSort(sort: string): { readonly order: Order; readonly reverse: boolean } {
  const order = orders.find((o) => o === sort.replace(/^-/, '')) ?? 'name';
  return { order, reverse: sort.startsWith('-') };
}

const compare = (a: Entry, b: Entry): number =>
  a.key < b.key ? -1 : a.key > b.key ? 1
    : a.name < b.name ? -1 : a.name > b.name ? 1
      : a.row.id < b.row.id ? -1 : a.row.id > b.row.id ? 1 : 0;

/** Keeps the rows of one look in order. An update costs a look into a map a row, and a binary search a change. */
export class RowIndex {
  readonly #look: Look;
  readonly #reverse: boolean;
  readonly #keyOf: (row: Summary) => string | number;
  readonly #words: readonly string[];
  #entries = new Map<string, Entry>(); // of every row, shown or not
  #shown: Entry[] = [];
  /** How many rows there are of each status that fit the search, whatever status is looked for. */
  counts: ReadonlyMap<TopologyStatus, number> = new Map();

  constructor(look: Look) {
    const { order, reverse } = readSort(look.sort);
    this.#look = look;
    this.#reverse = reverse;
    this.#keyOf = keys[order];
    this.#words = look.search.toLowerCase().split(/\s+/).filter(Boolean);
  }

  get length(): number { return this.#shown.length; }

  at(index: number): Summary | undefined {
    return this.#shown[this.#reverse ? this.#shown.length - 1 - index : index]?.row;
  }

  indexOf(id: string): number {
    const entry = this.#entries.get(id);
    const place = entry ? this.#place(entry) : -1;
    if (!entry || this.#shown[place] !== entry) return -1;
    return this.#reverse ? this.#shown.length - 1 - place : place;
  }

  /** Takes the rows as they are now. */
  update(rows: readonly Summary[]): void {
    const changed: Entry[] = [];
    const gone: Entry[] = [];
    for (const row of rows) {
      const old = this.#entries.get(row.id);
      if (old?.row === row) continue;
      const entry = { row, key: this.#keyOf(row), name: old?.row.name === row.name ? old.name : nameKey(row.name) };
      if (old) gone.push(old);
      changed.push(entry);
      this.#entries.set(row.id, entry);
    }
    if (this.#entries.size > rows.length) {
      const kept = new Set(rows.map((row) => row.id));
      for (const [id, entry] of this.#entries) {
        if (kept.has(id)) continue;
        this.#entries.delete(id);
        gone.push(entry);
      }
    }
    if (!changed.length && !gone.length) return;
    if (changed.length + gone.length > 200) { // one sort is cheaper than so many moves within an array
      this.#shown = [...this.#entries.values()].filter((entry) => this.#fits(entry.row)).sort(compare);
    } else {
      for (const entry of gone) {
        const place = this.#place(entry);
        if (this.#shown[place] === entry) this.#shown.splice(place, 1);
      }
      for (const entry of changed) if (this.#fits(entry.row)) this.#shown.splice(this.#place(entry), 0, entry);
    }
    this.#count();
  }

  #count(): void {
    const counts = new Map<TopologyStatus, number>();
    for (const { row } of this.#entries.values()) {
      if (this.#found(row)) counts.set(row.status, (counts.get(row.status) ?? 0) + 1);
    }
    this.counts = counts;
  }

  #found(row: Summary): boolean {
    if (!this.#words.length) return true;
    const text = row.name.toLowerCase() + ' ' + row.id;
    return this.#words.every((word) => text.includes(word));
  }

  #fits(row: Summary): boolean {
    return (!this.#look.status || row.status === this.#look.status) && this.#found(row);
  }

  /** Where an entry is, or would be. */
  #place(entry: Entry): number {
    let low = 0;
    let high = this.#shown.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (compare(this.#shown[middle]!, entry) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}
