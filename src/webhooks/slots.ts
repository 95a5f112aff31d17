/**
 * How many deliveries there are at once to one host, or of one client: who is slow keeps only its own waiting. Those
 * that find no slot come back one after the other, however many they are, so that a long backlog does not turn in
 * circles.
 */

/** Slots of one owner are asked for this seldom at least; it is also what the first ones are put off by. */
const shortestPutOffMs = 200;
const longestPutOffMs = 15_000;

interface Load {
  taken: number;
  /** Epoch ms by which those that are put off are back. */
  allBackAt: number;
}

export class Slots {
  readonly #limit: number;
  /** Of owners with a delivery under way. */
  readonly #loads = new Map<string, Load>();

  /** @param limit of each owner */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** @returns what gives the slot back, or undefined when the owner has none left */
  take(owner: string): (() => void) | undefined {
    const load = this.#loads.get(owner) ?? { taken: 0, allBackAt: 0 };
    if (load.taken >= this.#limit) return undefined;
    load.taken += 1;
    this.#loads.set(owner, load);
    return () => {
      load.taken -= 1;
      if (load.taken === 0) this.#loads.delete(owner);
    };
  }

  /**
   * Puts off a delivery that found no slot: by 200 ms × those that are put off already / slots, itself included, but
   * from 200 ms to 15 s; then up to a half less, so that what came together does not come back together.
   * @param nowMs since the epoch
   * @param random uniform in [0, 1)
   * @returns milliseconds until it asks again
   */
  putOffMs(owner: string, nowMs: number = Date.now(), random: number = Math.random()): number {
    const load = this.#loads.get(owner) ?? { taken: 0, allBackAt: 0 };
    const apartMs = shortestPutOffMs / this.#limit;
    load.allBackAt = Math.min(Math.max(load.allBackAt, nowMs) + apartMs, nowMs + longestPutOffMs);
    return Math.ceil(Math.max(load.allBackAt - nowMs, shortestPutOffMs) * (1 - random / 2));
  }
}
