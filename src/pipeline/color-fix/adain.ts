/**
 * Colour fix by adaptive instance normalisation: each channel takes the mean and deviation that the
 * resampled input has, over the whole image. Formula of the PiSA-SR code (`adain_color_fix`): unbiased
 * variance + 1e−5, for pixels in [0,1].
 */
import { bandsOf } from '../bands.ts';
import type { Planar } from '../planar.ts';
import type { Resampled } from '../resample.ts';
import type { RunControl } from '../run-control.ts';
import { ChannelStatistics } from './statistics.ts';

const epsilon = 1e-5;

const deviation = (statistics: ChannelStatistics): number =>
  Math.sqrt(statistics.variance + epsilon);

/**
 * @param target [3,H,W] in [0,1]; changed in place, not clipped
 * @param reference of the same size
 */
export async function adain(
  target: Planar,
  reference: Resampled,
  control: RunControl,
): Promise<void> {
  const { channels, width, height } = target;
  const create = () => Array.from({ length: channels }, () => new ChannelStatistics());
  const [own, wanted] = [create(), create()];
  let buffer = new Float32Array(0);
  for (const { y, height: rows } of bandsOf(target)) {
    const length = channels * rows * width;
    if (buffer.length !== length) buffer = new Float32Array(length);
    reference.readClipped({ y, x: 0, height: rows, width }, buffer);
    for (let c = 0; c < channels; c++) {
      for (let row = 0; row < rows; row++) {
        wanted[c]?.addRow(buffer, (c * rows + row) * width, width);
        own[c]?.addRow(target.data, (c * height + y + row) * width, width);
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
