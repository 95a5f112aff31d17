/** The end of stage 7: what the model restored is reduced to the output where that is smaller. */
import { sharp } from '../images/sharp-policy.ts';
import type { PixelSize } from '../jobs/output-size.ts';
import { bandsOf } from './bands.ts';
import type { PixelSink } from './pixel-sink.ts';
import type { Region } from './planar.ts';
import type { RunControl } from './run-control.ts';
import { Samples } from './samples.ts';

/** What a restored picture is to become. */
export interface Cut {
  /** The rectangle of the picture that is reduced; it may reach beyond its right and bottom, where the edge is repeated. */
  readonly visible: Region;
  /** Where it would come to lie in the target. */
  readonly reduced: Region;
  /** The part of `reduced` that is put there. */
  readonly place: Region;
}

/** All of a picture, reduced to fill a place. */
export function wholeCut({ width, height }: PixelSize, place: Region): Cut {
  return { visible: { y: 0, x: 0, height, width }, reduced: place, place };
}

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
 * @param restored size of the picture as the model restores it
 */
export function prepareReduction(
  target: Samples,
  restored: PixelSize,
  cut: Cut,
  control: RunControl,
): Reduction {
  if (!isReduced(restored, cut.place)) {
    return { restored: target.part(cut.place), finish: async () => {} };
  }
  const { visible } = cut;
  const picture = new Samples({
    width: Math.max(restored.width, visible.x + visible.width),
    height: Math.max(restored.height, visible.y + visible.height),
  });
  return {
    restored: picture.part({ y: 0, x: 0, width: restored.width, height: restored.height }),
    async finish() {
      picture.repeatEdges(restored);
      await reduce(picture, target, cut, control);
    },
  };
}

const rectangleOf = ({ x, y, width, height }: Region) => ({ left: x, top: y, width, height });

/**
 * Bicubic, widened by the factor, so that nothing aliases.
 * @param picture [H,W,3]
 */
export async function reduce(
  picture: Samples,
  target: Samples,
  { visible, reduced, place }: Cut,
  control: RunControl,
): Promise<void> {
  const { width, height, channels } = picture;
  const raw = { width, height, channels } as const;
  const wanted = { ...place, x: place.x - reduced.x, y: place.y - reduced.y };
  const pixels = await sharp(picture.data, { raw, limitInputPixels: false })
    .extract(rectangleOf(visible))
    .resize({ width: reduced.width, height: reduced.height, fit: 'fill', kernel: 'cubic' })
    .extract(rectangleOf(wanted))
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
