/** Stage 7: holds the colours of the result to those of the input. Statistics are of all that is visible. */
import { makeGrey } from '../grey.ts';
import { type PixelSink, planeSink, putPlanes } from '../pixel-sink.ts';
import { Planar } from '../planar.ts';
import { Resampled } from '../resample.ts';
import type { Run } from '../run.ts';
import { adain } from './adain.ts';
import { wavelet } from './wavelet.ts';

/** What lies between the decoder and the output. */
export interface ColorFixing {
  /** Where the decoder's pixels go. */
  readonly decoded: PixelSink;
  /** Once all of them are there: fixes their colours, and has the output filled. */
  finish(): Promise<void>;
}

/**
 * By the run's method; then a grey photo becomes grey again, whatever the method. Where there is nothing to do the decoder
 * fills the output itself, which spares float planes of its size.
 * @param output gets sRGB in about [0,1]
 * @param reference of the same size
 */
export function prepareColorFix(
  output: PixelSink,
  reference: Resampled,
  { colorfix, input, control }: Run,
): ColorFixing {
  if (colorfix === 'none' && !input.isGrey) return { decoded: output, finish: async () => {} };
  const planes = new Planar(3, output.height, output.width);
  return {
    decoded: planeSink(planes),
    async finish() {
      if (colorfix === 'adain') {
        const alpha = input.alpha && new Resampled(input.alpha, output);
        await adain(planes, reference, control, alpha);
      } else if (colorfix === 'wavelet') await wavelet(planes, reference, control);
      if (input.isGrey) await makeGrey(planes, control);
      await putPlanes(planes, output, control);
      planes.release();
    },
  };
}
