// What the palette offers. The built page loads /console/archetypes.json, so that an installation can serve its own
// there; `archetypes.json` beside this file is what is built in.
import address from './archetypes.json?url';

/** A kind of decky: what a new one is called, and what it offers to begin with. */
export interface Archetype {
  /** What decky_config.archetype says. */
  readonly id: string;
  readonly title: string;
  /** What names of new ones begin with: "srv" gives srv-1, srv-2, … */
  readonly name: string;
  readonly services: readonly string[];
  readonly forwards_l3: boolean;
}

/** Reads a file of archetypes. Throws an Error that says what is wrong with it. */
export function parseArchetypes(json: unknown): readonly Archetype[] {
  const list = (json as { archetypes?: unknown } | null)?.archetypes;
  if (!Array.isArray(list)) throw new Error('archetypes: give an array');
  return list.map((one: Partial<Archetype> | null, i) => {
    const { id, title = id, name = id, services = [], forwards_l3 = false } = one ?? {};
    if (typeof id !== 'string' || !id) throw new Error(`archetypes[${i}].id: give a name`);
    if (typeof title !== 'string' || typeof name !== 'string') {
      throw new Error(`archetypes[${i}]: title and name are texts`);
    }
    if (!Array.isArray(services) || services.some((word) => typeof word !== 'string' || !word)) {
      throw new Error(`archetypes[${i}].services: give an array of names`);
    }
    return { id, title, name, services, forwards_l3: forwards_l3 === true };
  });
}

/** Loads what the server serves. */
export async function loadArchetypes(window: Window): Promise<readonly Archetype[]> {
  const response = await window.fetch(address);
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  return parseArchetypes(await response.json());
}
