/** How many deliveries go to one host at once: a host that is slow keeps only its own waiting. */
export class HostSlots {
  readonly #limit: number;
  readonly #taken = new Map<string, number>();

  constructor(limit: number) {
    this.#limit = limit;
  }

  /** @returns what gives the slot back, or undefined when the host has none left */
  take(url: string): (() => void) | undefined {
    const { host } = new URL(url);
    const taken = this.#taken.get(host) ?? 0;
    if (taken >= this.#limit) return undefined;
    this.#taken.set(host, taken + 1);
    return () => {
      const left = (this.#taken.get(host) ?? 1) - 1;
      if (left > 0) this.#taken.set(host, left);
      else this.#taken.delete(host);
    };
  }
}
