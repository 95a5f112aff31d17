/** The end of stage 7: what the model restored is reduced to the output where that is smaller. */
import { sharp } from '../images/sharp-policy.ts';
import type { PixelSize } from '../jobs/output-size.ts';
import { bandsOf } from './bands.ts';
import type { PixelSink } from './pixel-sink.ts';
import type { Region } from './planar.ts';
import type { RunControl } from './run-control.ts';
import { Samples } from './samples.ts';

/** What lies between the restored picture and its place in the output. */
export interface Reduction {
  /** Of the restored size: gets sRGB in about [0,1]. */
  readonly restored: PixelSink;
  /** Once all of it is there. */
  finish(): Promise<void>;
}

export const isReduced = (restored: PixelSize, output: PixelSize): boolean =>
  restored.width !== output.width || restored.height !== output.height;

/**
 * Where there is nothing to reduce, the pixels go to their place at once.
 * @param place the rectangle of `target` that the picture fills
 * @param restored size of the picture as the model restores it
 */
export function prepareReduction(
  target: Samples,
  place: Region,
  restored: PixelSize,
  control: RunControl,
): Reduction {
  if (!isReduced(restored, place)) return { restored: target.part(place), finish: async () => {} };
  const picture = new Samples(restored);
  return { restored: picture, finish: () => reduce(picture, target, place, control) };
}

/**
 * Bicubic, widened by the factor, so that nothing aliases.
 * @param picture [H,W,3]
 */
export async function reduce(
  picture: Samples,
  target: Samples,
  place: Region,
  control: RunControl,
): Promise<void> {
  const { width, height, channels } = picture;
  const raw = { width, height, channels } as const;
  const pixels = await sharp(picture.data, { raw, limitInputPixels: false })
    .resize({ width: place.width, height: place.height, fit: 'fill', kernel: 'cubic' })
    .raw()
    .toBuffer();
  for (const band of bandsOf(place)) {
    for (let y = band.y; y < band.y + band.height; y++) {
      const row = pixels.subarray(3 * y * place.width, 3 * (y + 1) * place.width);
      target.putRgb(place.y + y, place.x, row);
    }
    await control.breathe();
  }
}
