/** Sizes: of the output, of what the model restores, and of the padded image that the graphs see. */
import { outputSize, type PixelSize } from '../jobs/output-size.ts';
import { wholeCut } from './reduce.ts';
import { planSections, type Section, type SizedModel } from './sections.ts';
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
  /** Of what the graphs see at once. */
  readonly paddedPixels: number;
  /** What is restored at once: all of it, or one rectangle after the other. */
  readonly sections: readonly Section[];
}

/**
 * The wider a picture, the longer libvips takes for each of its pixels, and nothing stops it: on two busy cores 2 s for
 * 32,768 × 2,048, 4 s for 65,536 × 1,024, 33 s for 800,000 × 4.
 */
const maxReducedSide = 32_768;
/** Reduced by less than this, a picture would be soft and sharp in turns. */
const leastReduction = 1.1;
/** Beside a section the output is held, so that both together take what a large output does. */
const sectionsHeld = 2;

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
  const window = { y: 0, x: 0, ...restored };
  const whole = { window, latents, ...wholeCut(restored, { y: 0, x: 0, ...output }) };
  return { output, restored, latents, paddedPixels, sections: [whole] };
}

/** The model sees the photo whole or in parts alike: no part of a graph but the UNet, which is tiled as it is, sees all of it. */
function takesSections({ manifest }: SizedModel): boolean {
  const { encoder, decoder } = manifest.graphs;
  return encoder.receptiveRadiusLatents !== null && decoder.receptiveRadiusLatents !== null;
}

/**
 * @param input upright, in pixels
 * @param maxPixels of what is restored at once: a photo that is too large for the model's scale is restored in sections,
 *   else at the largest scale that fits, and at `scale` where none well above that does
 * @param maxInSections of what is restored in sections; 0: the run can only take all of it at once
 */
export function planGeometry(
  input: PixelSize,
  scale: number,
  model: SizedModel,
  maxPixels: number,
  maxInSections = 0,
): Geometry {
  const output = outputSize(input, scale);
  const trained = model.manifest.scale;
  const within = (pixels: number) =>
    Math.min(trained, Math.sqrt(pixels / (input.width * input.height)));
  const whole = within(maxPixels);
  const planned = planAt(output, outputSize(input, whole), model);
  const fits =
    Math.max(planned.restored.width, planned.restored.height) <= maxReducedSide &&
    fitsPadded(planned, model, maxPixels);
  if (fits && whole === trained && whole >= leastReduction * scale) return planned;
  const inSections = within(maxInSections);
  const isWorthIt = (inSections > whole || !fits) && inSections >= leastReduction * scale;
  if (isWorthIt && takesSections(model)) {
    const limits = { maxPixels: maxPixels / sectionsHeld, maxSide: maxReducedSide };
    const parts = planSections(output, inSections / scale, model, limits);
    if (parts) {
      const planned = planAt(output, parts.restored, model);
      const { downscale } = model.manifest.latents;
      const padded = parts.sections.map(({ latents }) => latents.width * latents.height);
      const paddedPixels = Math.max(...padded) * downscale ** 2;
      return { ...planned, paddedPixels, sections: parts.sections };
    }
  }
  return fits && whole >= leastReduction * scale ? planned : planAt(output, output, model);
}
