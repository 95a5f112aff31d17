/**
 * Stage 2: bicubic resampling to the size that the model works at (geometry.ts), on demand. Held whole, the model's input
 * would be the largest array of a job, so a `Resampled` computes the rectangles that are asked for from the small decoded
 * image.
 *
 * The convolution is Pillow's `Image.resize(BICUBIC)` (src/libImaging/Resample.c), which the model was
 * trained on: a = −0.5, widened when shrinking, weights renormalised at the edges, horizontal pass first.
 */
import type { PixelSize } from '../jobs/output-size.ts';
import type { Planar, Region } from './planar.ts';

/** Keys' cubic convolution kernel, a = −0.5. */
function cubic(x: number): number {
  const a = -0.5;
  const t = Math.abs(x);
  if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
  if (t < 2) return (((t - 5) * t + 8) * t - 4) * a;
  return 0;
}

const cubicSupport = 2;
/** Of an output that is not at an edge, when enlarging. Written out below: the loop takes twice as long. */
const usualTaps = 4;
type Four = [number, number, number, number];

/** For each output index of an axis: its first input index, its number of taps and their weights. */
interface AxisWeights {
  readonly starts: Int32Array;
  readonly counts: Int32Array;
  /** [outputLength, taps] */
  readonly weights: Float64Array;
  readonly taps: number;
}

/** Of `length` outputs from `start` on, of an axis that has `outputLength` in all. */
function axisWeights(
  inputLength: number,
  outputLength: number,
  start: number,
  length: number,
): AxisWeights {
  const scale = inputLength / outputLength;
  const filterScale = Math.max(scale, 1);
  const support = cubicSupport * filterScale;
  const taps = Math.ceil(support) * 2 + 1;
  const starts = new Int32Array(length);
  const counts = new Int32Array(length);
  const weights = new Float64Array(length * taps);
  for (let i = 0; i < length; i++) {
    const center = (start + i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(inputLength, Math.trunc(center + support + 0.5)) - first;
    let sum = 0;
    for (let k = 0; k < count; k++) {
      const weight = cubic((first + k - center + 0.5) / filterScale);
      weights[i * taps + k] = weight;
      sum += weight;
    }
    for (let k = 0; k < count; k++) {
      weights[i * taps + k] = (weights[i * taps + k] as number) / sum;
    }
    starts[i] = first;
    counts[i] = count;
  }
  return { starts, counts, weights, taps };
}

const clampIndex = (index: number, length: number): number => Math.min(index, length - 1);

export class Resampled {
  readonly channels: number;
  readonly width: number;
  readonly height: number;
  readonly #input: Planar;
  readonly #rows: AxisWeights;
  readonly #columns: AxisWeights;
  #scratch = new Float32Array(0);

  /**
   * @param input [C,H,W], any range
   * @param output its size, which need not be whole where a window is given
   * @param window a rectangle of the output, for regions that are counted from its corner; absent: all of it
   */
  constructor(
    input: Planar,
    output: PixelSize,
    window: Region = { y: 0, x: 0, width: output.width, height: output.height },
  ) {
    this.#input = input;
    this.channels = input.channels;
    this.width = window.width;
    this.height = window.height;
    this.#rows = axisWeights(input.height, output.height, window.y, window.height);
    this.#columns = axisWeights(input.width, output.width, window.x, window.width);
  }

  /**
   * Computes a rectangle of the resampled image. Beyond its right and bottom the edge is repeated: that is
   * the padding to the sizes that the graphs take.
   *
   * Its scratch is the input rows that the region needs, at the region's width: where the height grows, as that of a
   * photo does, a few rows more than the region has. Whoever shrinks a height must not stretch the width at once.
   * @param target [C, region.height, region.width]; not clipped, so it may overshoot the input's range
   */
  read(region: Region, target: Float32Array): void {
    const firstRow = this.#rows.starts[clampIndex(region.y, this.height)] as number;
    const lastY = clampIndex(region.y + region.height - 1, this.height);
    const endRow = (this.#rows.starts[lastY] as number) + (this.#rows.counts[lastY] as number);
    const scratchLength = (endRow - firstRow) * region.width;
    if (this.#scratch.length < scratchLength) this.#scratch = new Float32Array(scratchLength);
    for (let c = 0; c < this.channels; c++) {
      this.#horizontal(c, region, firstRow, endRow);
      this.#vertical(c, region, firstRow, target);
    }
  }

  /** Input rows [firstRow, endRow) at the region's columns → scratch, float32 as Pillow keeps them. */
  #horizontal(channel: number, region: Region, firstRow: number, endRow: number): void {
    const { starts, counts, weights, taps } = this.#columns;
    const { data, width, height } = this.#input;
    const scratch = this.#scratch;
    for (let row = firstRow; row < endRow; row++) {
      const from = (channel * height + row) * width;
      const to = (row - firstRow) * region.width;
      for (let column = 0; column < region.width; column++) {
        const x = clampIndex(region.x + column, this.width);
        const start = from + (starts[x] as number);
        const count = counts[x] as number;
        let sum = 0;
        for (let k = 0; k < count; k++) {
          sum += (data[start + k] as number) * (weights[x * taps + k] as number);
        }
        scratch[to + column] = sum;
      }
    }
  }

  #vertical(channel: number, region: Region, firstRow: number, target: Float32Array): void {
    const { starts, counts, weights, taps } = this.#rows;
    const scratch = this.#scratch;
    const { width } = region;
    for (let row = 0; row < region.height; row++) {
      const y = clampIndex(region.y + row, this.height);
      const from = ((starts[y] as number) - firstRow) * width;
      const count = counts[y] as number;
      const to = (channel * region.height + row) * width;
      const first = y * taps;
      if (count === usualTaps) {
        const [w0, w1, w2, w3] = weights.subarray(first, first + 4) as unknown as Four;
        for (let i = from; i < from + width; i++) {
          target[to + i - from] =
            (scratch[i] as number) * w0 +
            (scratch[i + width] as number) * w1 +
            (scratch[i + 2 * width] as number) * w2 +
            (scratch[i + 3 * width] as number) * w3;
        }
        continue;
      }
      for (let column = 0; column < width; column++) {
        let sum = 0;
        for (let k = 0; k < count; k++) {
          sum += (scratch[from + k * width + column] as number) * (weights[first + k] as number);
        }
        target[to + column] = sum;
      }
    }
  }

  /** As `read`, clipped to [0,1]: the reference resizes 8-bit images, which cannot overshoot. */
  readClipped(region: Region, target: Float32Array): void {
    this.read(region, target);
    for (let i = 0; i < target.length; i++) {
      const value = target[i] as number;
      if (value < 0) target[i] = 0;
      else if (value > 1) target[i] = 1;
    }
  }
}
