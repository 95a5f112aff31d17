/** Stage 7: holds the colours of the result to those of the input. Statistics are of the whole image. */
import { makeGrey } from '../grey.ts';
import type { Planar } from '../planar.ts';
import type { Resampled } from '../resample.ts';
import type { Run } from '../run.ts';
import { adain } from './adain.ts';
import { wavelet } from './wavelet.ts';

/**
 * By the run's method; then a grey photo becomes grey again, whatever the method.
 * @param superRes [3,H,W] in [0,1]; changed in place, and not clipped afterwards
 */
export async function fixColors(
  superRes: Planar,
  reference: Resampled,
  { colorfix, input, control }: Run,
): Promise<void> {
  if (colorfix === 'adain') await adain(superRes, reference, control);
  else if (colorfix === 'wavelet') await wavelet(superRes, reference, control);
  if (input.isGrey) await makeGrey(superRes, control);
}
