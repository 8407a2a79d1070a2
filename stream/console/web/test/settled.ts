/** Lets promises run until something is so: what is in memory needs turns, and no time. */
export async function settled(yes: () => boolean): Promise<void> {
  for (let turns = 0; !yes(); turns++) {
    if (turns > 10_000) throw new Error('it does not settle');
    await Promise.resolve();
  }
}
