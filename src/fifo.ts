/** Work that must not all be done at once: so many at a time, first come first served. */
import { unlessAborted } from './waits.ts';

export class Fifo {
  readonly #limit: number;
  #working = 0;
  /** Called, each gives its place to one that waits. The first has waited longest. */
  readonly #waiting = new Set<() => void>();

  /** @param limit how many work at once */
  constructor(limit = 1) {
    this.#limit = limit;
  }

  /**
   * @throws the reason of the signal, when it aborts before `work` has begun; or whatever `work` throws
   */
  async take<T>(signal: AbortSignal | undefined, work: () => Promise<T>): Promise<T> {
    signal?.throwIfAborted();
    if (this.#working < this.#limit) this.#working += 1;
    else await this.#turn(signal);
    try {
      return await work();
    } finally {
      this.#passOn();
    }
  }

  async #turn(signal: AbortSignal | undefined): Promise<void> {
    let begin: () => void = () => undefined;
    const turn = new Promise<void>((resolve) => {
      begin = resolve;
    });
    this.#waiting.add(begin);
    try {
      await unlessAborted(turn, signal);
    } catch (reason) {
      // It may have got the place in the moment in which it gave up.
      if (!this.#waiting.delete(begin)) this.#passOn();
      throw reason;
    }
  }

  #passOn(): void {
    const [next] = this.#waiting;
    if (!next) {
      this.#working -= 1;
      return;
    }
    this.#waiting.delete(next);
    next();
  }
}
