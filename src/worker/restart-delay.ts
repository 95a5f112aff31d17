/** How long to wait before a child process is started again: doubles with each failure in a row. */
const maxDelayMs = 30_000;
/** A process that lived this long was sound: its end is the first failure of a new row. */
const soundLifeMs = 60_000;

export class RestartDelay {
  readonly #firstMs: number;
  #failuresInRow = 0;

  constructor(firstMs: number) {
    this.#firstMs = firstMs;
  }

  /**
   * @param failed false when we ended a sound process on purpose
   * @param livedMs how long it lived
   */
  next(failed: boolean, livedMs: number): number {
    if (!failed) {
      this.#failuresInRow = 0;
      return 0;
    }
    this.#failuresInRow = livedMs > soundLifeMs ? 1 : this.#failuresInRow + 1;
    return Math.min(this.#firstMs * 2 ** (this.#failuresInRow - 1), maxDelayMs);
  }
}
