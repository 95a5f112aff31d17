/**
 * Colour fix by low frequencies: result = target + LP₅(reference − target), LP₅ five blurs in a chain by
 * [1 2 1]⊗[1 2 1]/16 at dilation 1, 2, 4, 8, 16 with repeated edges. Formula of the PiSA-SR code
 * (`wavelet_color_fix.py`), rewritten by linearity: one chain on the difference instead of two.
 */
import { bandsOf } from '../bands.ts';
import type { Planar } from '../planar.ts';
import type { Resampled } from '../resample.ts';
import type { RunControl } from '../run-control.ts';
import { BlurredRows, type RowSource } from './blurred-rows.ts';

const dilations = [1, 2, 4, 8, 16];

/** reference − target; the reference is computed a band at a time, since its rows share most of their work. */
function differenceOf(target: Planar, reference: Resampled): RowSource {
  const { channels, width, height } = target;
  const bands = bandsOf(target);
  let band = { y: 0, height: 0 };
  let values = new Float32Array(0);
  let y = 0;
  const row = new Float32Array(channels * width);
  return {
    next() {
      if (y === band.y + band.height) {
        band = bands.next().value;
        values = new Float32Array(channels * band.height * width);
        reference.readClipped({ y, x: 0, height: band.height, width }, values);
      }
      for (let c = 0; c < channels; c++) {
        const wanted = (c * band.height + y - band.y) * width;
        const own = (c * height + y) * width;
        for (let x = 0; x < width; x++) {
          row[c * width + x] = (values[wanted + x] as number) - (target.data[own + x] as number);
        }
      }
      y += 1;
      return row;
    },
  };
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
  // A row is changed after the last blur that sees it: the chain reads ahead of what it gives.
  const lowFrequencies = dilations.reduce<RowSource>(
    (source, dilation) => new BlurredRows(source, target, dilation),
    differenceOf(target, reference),
  );
  for (const band of bandsOf(target)) {
    for (let y = band.y; y < band.y + band.height; y++) {
      const row = lowFrequencies.next();
      for (let c = 0; c < channels; c++) {
        const at = (c * height + y) * width;
        for (let x = 0; x < width; x++) {
          target.data[at + x] = (target.data[at + x] as number) + (row[c * width + x] as number);
        }
      }
    }
    control.advanceTo((band.y + band.height) / height);
    await control.breathe();
  }
}
