/**
 * Colour fix by low frequencies: result = target + LP₅(reference − target), LP₅ five blurs in a chain by
 * [1 2 1]⊗[1 2 1]/16 at dilation 1, 2, 4, 8, 16 with repeated edges. Formula of the PiSA-SR code
 * (`wavelet_color_fix.py`), rewritten by linearity: one chain on the difference instead of two.
 */
import { bandsOf } from '../bands.ts';
import type { Planar } from '../planar.ts';
import type { Resampled } from '../resample.ts';
import type { RunControl } from '../run-control.ts';

const dilations = [1, 2, 4, 8, 16];
/** How many rows a result sees to either side. */
const radius = dilations.reduce((sum, dilation) => sum + dilation, 0);

/** Bands are not thinner than this, or most of the work would be halo. */
const bandRows = 2 * radius;

/** [1 2 1]/4 along each row of `rows` × `width`, edges repeated. */
function blurRows(
  from: Float32Array,
  to: Float32Array,
  rows: number,
  width: number,
  d: number,
): void {
  const last = width - 1;
  const innerStart = Math.min(d, width);
  const innerEnd = Math.max(innerStart, width - d);
  for (let row = 0; row < rows; row++) {
    const at = row * width;
    for (let x = innerStart; x < innerEnd; x++) {
      const sides = (from[at + x - d] as number) + (from[at + x + d] as number);
      to[at + x] = 0.25 * sides + 0.5 * (from[at + x] as number);
    }
    // The ends of a row, where a neighbour may lie outside.
    for (let x = 0; x < width; x = x + 1 === innerStart ? innerEnd : x + 1) {
      const left = from[at + Math.max(0, x - d)] as number;
      const right = from[at + Math.min(last, x + d)] as number;
      to[at + x] = 0.25 * (left + right) + 0.5 * (from[at + x] as number);
    }
  }
}

/**
 * [1 2 1]/4 along columns. Rows outside [0, rows) repeat the edge; where that is not an edge of the image
 * the outer rows come out wrong, which the halo of `radius` rows absorbs.
 */
function blurColumns(
  from: Float32Array,
  to: Float32Array,
  rows: number,
  width: number,
  d: number,
): void {
  for (let row = 0; row < rows; row++) {
    const above = Math.max(0, row - d) * width;
    const below = Math.min(rows - 1, row + d) * width;
    const at = row * width;
    for (let x = 0; x < width; x++) {
      to[at + x] =
        0.25 * ((from[above + x] as number) + (from[below + x] as number)) +
        0.5 * (from[at + x] as number);
    }
  }
}

/** LP₅ of [rows, width], in place; `spare` is overwritten. */
function lowPass(values: Float32Array, spare: Float32Array, rows: number, width: number): void {
  for (const dilation of dilations) {
    blurRows(values, spare, rows, width, dilation);
    blurColumns(spare, values, rows, width, dilation);
  }
}

/** The old values of rows [top, bottom) of every channel, [C, bottom − top, W]. */
interface OldRows {
  readonly top: number;
  readonly bottom: number;
  readonly data: Float32Array;
}

/**
 * Rows above `y` are already changed in `target`, but the band before has their old values: its rows reach
 * at least as far up and beyond `y`.
 */
function readOldRows(
  target: Planar,
  y: number,
  rows: number,
  before: OldRows | undefined,
): OldRows {
  const { channels, width, height } = target;
  const top = Math.max(0, y - radius);
  const bottom = Math.min(height, y + rows + radius);
  const data = new Float32Array(channels * (bottom - top) * width);
  for (let c = 0; c < channels; c++) {
    const to = c * (bottom - top) * width;
    if (before) {
      const plane = c * (before.bottom - before.top);
      const from = (plane + top - before.top) * width;
      data.set(before.data.subarray(from, from + (y - top) * width), to);
    }
    const from = c * height * width;
    const unchanged = target.data.subarray(from + y * width, from + bottom * width);
    data.set(unchanged, to + (y - top) * width);
  }
  return { top, bottom, data };
}

/**
 * @param target [3,H,W] in [0,1]; changed in place, not clipped
 * @param reference of the same size
 */
export async function wavelet(
  target: Planar,
  reference: Resampled,
  control: RunControl,
): Promise<void> {
  const { channels, width, height } = target;
  let old: OldRows | undefined;
  for (const { y, height: rows } of bandsOf(target, bandRows)) {
    old = readOldRows(target, y, rows, old);
    const haloRows = old.bottom - old.top;
    const plane = haloRows * width;
    const difference = new Float32Array(channels * plane);
    reference.readClipped({ y: old.top, x: 0, height: haloRows, width }, difference);
    const spare = new Float32Array(plane);
    for (let c = 0; c < channels; c++) {
      const low = difference.subarray(c * plane, (c + 1) * plane);
      for (let i = 0; i < plane; i++) {
        low[i] = (low[i] as number) - (old.data[c * plane + i] as number);
      }
      lowPass(low, spare, haloRows, width);
      const from = (y - old.top) * width;
      const to = (c * height + y) * width;
      for (let i = 0; i < rows * width; i++) {
        target.data[to + i] = (target.data[to + i] as number) + (low[from + i] as number);
      }
      await control.breathe();
    }
    control.advanceTo((y + rows) / height);
  }
}
