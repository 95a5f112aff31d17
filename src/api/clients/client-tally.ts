/** A number for each client, such as what it has under way in this process. */
import type { Client } from './client.ts';

export class ClientTally {
  /** No entry for a client that has none: clients without keys are as many as there are addresses. */
  readonly #counts = new Map<string, number>();

  of({ countedAs }: Client): number {
    return this.#counts.get(countedAs) ?? 0;
  }

  add(client: Client, by: number): void {
    const count = this.of(client) + by;
    if (count === 0) this.#counts.delete(client.countedAs);
    else this.#counts.set(client.countedAs, count);
  }
}
