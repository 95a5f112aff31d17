/** Sizes: of the output, of what the model restores, and of the padded image that the graphs see. */
import { outputSize, type PixelSize } from '../jobs/output-size.ts';
import type { Model } from './model.ts';
import { roundUp } from './tiles.ts';

export interface Geometry {
  /** The output: exactly round(scale × upright input), at least one pixel. */
  readonly output: PixelSize;
  /**
   * What the model restores, which is reduced to the output where that is smaller: the photo at the scale that the model
   * was trained for. Where it sees less blur than that leaves, it sharpens what is sharp already.
   */
  readonly restored: PixelSize;
  /**
   * `restored` padded at its right and bottom, in latent cells: to a multiple of the step and no further, since
   * a graph with normalisation or attention gives every pixel another value where it sees more padding.
   */
  readonly latents: PixelSize;
  /** Of what the graphs see. */
  readonly paddedPixels: number;
}

/**
 * The wider a picture, the longer libvips takes for each of its pixels, and nothing stops it: on two busy cores 2 s for
 * 32,768 × 2,048, 4 s for 65,536 × 1,024, 33 s for 800,000 × 4.
 */
const maxReducedSide = 32_768;
/** Reduced by less than this, a picture would be soft and sharp in turns. */
const leastReduction = 1.1;

type SizedModel = Pick<Model, 'manifest' | 'tilePolicy'>;

/** Padding may cost this many times the pixels of the largest output: more than any usual image needs. */
const paddingFactor = 2;

/** False for an image of 4,000,000 × 1 pixels, say, which has few pixels, but 16 times as many once it is padded. */
export function fitsPadded(
  { paddedPixels }: Geometry,
  model: SizedModel,
  maxPixels: number,
): boolean {
  const leastPixels = (model.tilePolicy.step * model.manifest.latents.downscale) ** 2;
  return paddedPixels <= Math.max(paddingFactor * maxPixels, leastPixels);
}

function planAt(output: PixelSize, restored: PixelSize, model: SizedModel): Geometry {
  const { downscale } = model.manifest.latents;
  const { step } = model.tilePolicy;
  const cells = (pixels: number) => roundUp(Math.ceil(pixels / downscale), step);
  const latents = { width: cells(restored.width), height: cells(restored.height) };
  const paddedPixels = latents.width * latents.height * downscale ** 2;
  return { output, restored, latents, paddedPixels };
}

/**
 * @param input upright, in pixels
 * @param maxPixels of what is restored: a photo that is too large for the model's scale is restored at the largest one
 *   that fits, and at `scale` where none well above that does
 */
export function planGeometry(
  input: PixelSize,
  scale: number,
  model: SizedModel,
  maxPixels: number,
): Geometry {
  const output = outputSize(input, scale);
  const fitting = Math.sqrt(maxPixels / (input.width * input.height));
  const trained = Math.min(model.manifest.scale, fitting);
  if (trained >= leastReduction * scale) {
    const planned = planAt(output, outputSize(input, trained), model);
    const side = Math.max(planned.restored.width, planned.restored.height);
    if (side <= maxReducedSide && fitsPadded(planned, model, maxPixels)) return planned;
  }
  return planAt(output, output, model);
}
