/** Stage 7: holds the colours of the result to those of the input. Statistics are of the whole image. */
import type { ColorFix } from '../../jobs/params.ts';
import type { Planar } from '../planar.ts';
import type { Resampled } from '../resample.ts';
import type { RunControl } from '../run-control.ts';
import { adain } from './adain.ts';
import { wavelet } from './wavelet.ts';

/** @param superRes [3,H,W] in [0,1]; changed in place, and not clipped afterwards */
export async function fixColors(
  superRes: Planar,
  reference: Resampled,
  method: ColorFix,
  control: RunControl,
): Promise<void> {
  if (method === 'adain') await adain(superRes, reference, control);
  else if (method === 'wavelet') await wavelet(superRes, reference, control);
}
