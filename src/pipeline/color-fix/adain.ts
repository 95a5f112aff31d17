/**
 * Colour fix by adaptive instance normalisation: each channel takes the mean and deviation that the
 * resampled input has, over all that is visible. Formula of the PiSA-SR code (`adain_color_fix`): unbiased
 * variance + 1e−5, for pixels in [0,1].
 */
import { bandsOf } from '../bands.ts';
import { leastVisible } from '../hidden-colors.ts';
import type { Planar } from '../planar.ts';
import type { Resampled } from '../resample.ts';
import type { RunControl } from '../run-control.ts';
import { ChannelStatistics } from './statistics.ts';

const epsilon = 1e-5;

const deviation = (statistics: ChannelStatistics): number =>
  Math.sqrt(statistics.variance + epsilon);

/** From where to where (exclusive) the values of a row are visible, one stretch after the other. */
function* visibleSpans(alpha: Float32Array): Generator<[from: number, to: number]> {
  let from = 0;
  for (let x = 0; x <= alpha.length; x++) {
    if (x < alpha.length && (alpha[x] as number) >= leastVisible) continue;
    if (x > from) yield [from, x];
    from = x + 1;
  }
}

/**
 * @param target [3,H,W] in [0,1]; changed in place, not clipped
 * @param reference of the same size
 * @param alpha [1,H,W] of the same size; where it hides them, colours do not count, since the nearest visible one is
 *   spread over any area there. Absent: all is visible
 */
export async function adain(
  target: Planar,
  reference: Resampled,
  control: RunControl,
  alpha?: Resampled,
): Promise<void> {
  const { channels, width, height } = target;
  const create = () => Array.from({ length: channels }, () => new ChannelStatistics());
  const [own, wanted] = [create(), create()];
  let buffer = new Float32Array(0);
  let mask = new Float32Array(0);
  for (const { y, height: rows } of bandsOf(target)) {
    const length = channels * rows * width;
    if (buffer.length !== length) {
      buffer = new Float32Array(length);
      mask = new Float32Array(rows * width).fill(1);
    }
    alpha?.read({ y, x: 0, height: rows, width }, mask);
    reference.readClipped({ y, x: 0, height: rows, width }, buffer);
    for (let row = 0; row < rows; row++) {
      for (const [from, to] of visibleSpans(mask.subarray(row * width, (row + 1) * width))) {
        for (let c = 0; c < channels; c++) {
          wanted[c]?.addRow(buffer, (c * rows + row) * width + from, to - from);
          own[c]?.addRow(target.data, (c * height + y + row) * width + from, to - from);
        }
      }
    }
    control.advanceTo((0.7 * (y + rows)) / height);
    await control.breathe();
  }
  for (const [c, ownStatistics] of own.entries()) {
    const wantedStatistics = wanted[c] ?? ownStatistics;
    const gain = deviation(wantedStatistics) / deviation(ownStatistics);
    const offset = wantedStatistics.mean - ownStatistics.mean * gain;
    for (const { y, height: rows } of bandsOf(target)) {
      const from = (c * height + y) * width;
      for (let i = from; i < from + rows * width; i++) {
        target.data[i] = (target.data[i] as number) * gain + offset;
      }
      await control.breathe();
    }
  }
}
