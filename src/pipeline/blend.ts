/**
 * Gaussian blending of overlapping tiles. The weight of a tile is an outer product of two axis weights
 * and tiles lie on a grid, so the sum of all weights at a cell is a product too: each axis is normalised
 * on its own, once, and the blended image needs no division and no second accumulator.
 */
import type { Planar } from './planar.ts';
import type { AxisPlan, Tile } from './tiles.ts';

/** Variance of the weight in units of n², as in the latent tiling of the PiSA-SR code (`pisasr.py`). */
const relativeVariance = 0.01;

/**
 * exp(−(x−(n−1)/2)² / (2·n²·0.01)) / √(2π·0.01) for x = 0…n−1, in float64: the corner weight of a tile is
 * 3.7e−10 of its centre's, beyond float16.
 */
export function gaussianWeights(n: number): Float64Array {
  const middle = (n - 1) / 2;
  return Float64Array.from(
    { length: n },
    (_, x) =>
      Math.exp(-((x - middle) ** 2) / (2 * n * n * relativeVariance)) /
      Math.sqrt(2 * Math.PI * relativeVariance),
  );
}

/** For each tile of an axis its weights, such that at every cell the weights of all tiles sum to 1. */
export function normalizedAxisWeights(axis: AxisPlan, length: number): Float64Array[] {
  const weights = gaussianWeights(axis.tile);
  const sums = new Float64Array(length);
  for (const { start } of axis.spans) {
    for (let i = 0; i < axis.tile; i++) {
      sums[start + i] = (sums[start + i] as number) + (weights[i] as number);
    }
  }
  return axis.spans.map(({ start }) =>
    weights.map((weight, i) => weight / (sums[start + i] as number)),
  );
}

/**
 * Adds one tile to the blended image.
 * @param target [C,h,w], zero before the first tile
 * @param values [C,tileHeight,tileWidth] of the tile
 */
export function addBlended(
  target: Planar,
  tile: Tile,
  values: Float32Array,
  rowWeights: Float64Array,
  columnWeights: Float64Array,
): void {
  const { y, x, height, width } = tile.region;
  let from = 0;
  for (let c = 0; c < target.channels; c++) {
    for (let row = 0; row < height; row++) {
      const rowWeight = rowWeights[row] as number;
      const to = (c * target.height + y + row) * target.width + x;
      for (let column = 0; column < width; column++) {
        target.data[to + column] =
          (target.data[to + column] as number) +
          rowWeight * (columnWeights[column] as number) * (values[from++] as number);
      }
    }
  }
}
