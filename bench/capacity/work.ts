/** How much work an image is: measured times by size, and how often each size comes. */
import type { Random } from './random.ts';

export interface MeasuredSize {
  /** Pixels of the edge of the square input. */
  side: number;
  /** Part of the images, from 0 to 1. */
  share: number;
  /** Measured milliseconds of jobs of this size, each alone on its worker. */
  samplesMs: readonly number[];
}

/** Draws a size by its share, then one of its measured times. */
export function workOf(random: Random, sizes: readonly MeasuredSize[]): () => number {
  return () => random.pick(pickSize(random, sizes).samplesMs);
}

export function pickSize<T extends { share: number }>(random: Random, sizes: readonly T[]): T {
  let left = random.uniform() * sizes.reduce((sum, { share }) => sum + share, 0);
  for (const size of sizes) {
    left -= size.share;
    if (left < 0) return size;
  }
  const last = sizes.at(-1);
  if (!last) throw new Error('There is no size to pick from.');
  return last;
}

export const meanWorkMs = (sizes: readonly MeasuredSize[]): number => {
  const shares = sizes.reduce((sum, { share }) => sum + share, 0);
  return sizes.reduce((sum, { share, samplesMs }) => sum + (share / shares) * mean(samplesMs), 0);
};

export function mean(values: Iterable<number>): number {
  let sum = 0;
  let count = 0;
  for (const value of values) {
    sum += value;
    count += 1;
  }
  return sum / count;
}

/** Of many values, which are sorted once: the least that `q` of them do not exceed. */
export function quantilesOf(values: Float64Array, qs: readonly number[]): number[] {
  const sorted = Float64Array.from(values).sort();
  return qs.map((q) => sorted[Math.max(0, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN);
}
