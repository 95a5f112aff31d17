/**
 * Mean and variance of a channel, accumulated row by row in float64. Rows are merged by the formula of
 * Chan, Golub and LeVeque, so neither the order of tiles nor the size of bands changes a result, and a
 * large mean costs no precision.
 */
export class ChannelStatistics {
  #count = 0;
  #mean = 0;
  #squares = 0;

  /** Adds values[from, from + length), one row or a stretch of it, of 1 or more. */
  addRow(values: Float32Array, from: number, length: number): void {
    let sum = 0;
    for (let i = from; i < from + length; i++) sum += values[i] as number;
    const mean = sum / length;
    let squares = 0;
    for (let i = from; i < from + length; i++) squares += ((values[i] as number) - mean) ** 2;
    const count = this.#count + length;
    const delta = mean - this.#mean;
    this.#squares += squares + (delta * delta * this.#count * length) / count;
    this.#mean += (delta * length) / count;
    this.#count = count;
  }

  get mean(): number {
    return this.#mean;
  }

  /** Unbiased (divided by count − 1); 0 for a single value. */
  get variance(): number {
    return this.#count > 1 ? this.#squares / (this.#count - 1) : 0;
  }
}
