/** Mean and variance of a whole from those of its parts, the variance between the parts included. */

export interface Statistics {
  /** [groups] */
  readonly mean: Float32Array;
  readonly variance: Float32Array;
}

export class PooledStatistics {
  readonly #groups: number;
  #count = 0;
  readonly #mean: Float64Array;
  /** Sum of squared distances from the mean, over as many values as `#count` says. */
  readonly #squares: Float64Array;

  constructor(groups: number) {
    this.#groups = groups;
    this.#mean = new Float64Array(groups);
    this.#squares = new Float64Array(groups);
  }

  /** Empty statistics for a part to fill. */
  part(): Statistics {
    return { mean: new Float32Array(this.#groups), variance: new Float32Array(this.#groups) };
  }

  /**
   * Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample variances".
   * @param count how many values the part has, in any one unit
   */
  add({ mean, variance }: Statistics, count: number): void {
    const total = this.#count + count;
    for (let g = 0; g < this.#groups; g++) {
      const delta = (mean[g] as number) - (this.#mean[g] as number);
      this.#mean[g] = (this.#mean[g] as number) + (delta * count) / total;
      this.#squares[g] =
        (this.#squares[g] as number) +
        (variance[g] as number) * count +
        (delta * delta * this.#count * count) / total;
    }
    this.#count = total;
  }

  result(): Statistics {
    return {
      mean: Float32Array.from(this.#mean),
      variance: Float32Array.from(this.#squares, (squares) => squares / this.#count),
    };
  }
}
