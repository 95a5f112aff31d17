/** Sizes: of the output, of what the model restores, and of the padded image that the graphs see. */
import { outputSize, type PixelSize } from '../jobs/output-size.ts';
import { wholeCut } from './reduce.ts';
import { leastReduction, planSections, type Section, type SizedModel } from './sections.ts';
import { roundUp } from './tiles.ts';

export interface Geometry {
  /** The output: exactly round(scale × upright input), at least one pixel. */
  readonly output: PixelSize;
  /**
   * What the model restores, which is reduced to the output where that is smaller: the photo at the scale that the model
   * was trained for. Where it sees less blur than that leaves, it sharpens what is sharp already.
   */
  readonly restored: PixelSize;
  /** Where the photo ends in restored pixels: in sections perhaps within the last of them, else the same. */
  readonly extent: PixelSize;
  /**
   * `restored` padded at its right and bottom, in latent cells: to a multiple of the step and no further, since
   * a graph with normalisation or attention gives every pixel another value where it sees more padding.
   */
  readonly latents: PixelSize;
  /** What is restored at once: all of it, or one rectangle after the other. */
  readonly sections: readonly Section[];
}

/**
 * The wider a picture, the longer libvips takes for each of its pixels, and nothing stops it: on two busy cores 2 s for
 * 32,768 × 2,048, 4 s for 65,536 × 1,024, 33 s for 800,000 × 4.
 */
const maxReducedSide = 32_768;
/** Beside a section the output is held, so that both together take what a large output does. */
const sectionsHeld = 2;

/** Padding may cost this many times the pixels of the largest output: more than any usual image needs. */
const paddingFactor = 2;

/** What the graphs see at once. */
export function paddedPixelsOf({ sections }: Geometry, { manifest }: SizedModel): number {
  const cells = sections.map(({ latents }) => latents.width * latents.height);
  return Math.max(...cells) * manifest.latents.downscale ** 2;
}

/** False for an image of 4,000,000 × 1 pixels, say, which has few pixels, but 16 times as many once it is padded. */
export function fitsPadded(geometry: Geometry, model: SizedModel, maxPixels: number): boolean {
  const paddedPixels = paddedPixelsOf(geometry, model);
  const leastPixels = (model.tilePolicy.step * model.manifest.latents.downscale) ** 2;
  return paddedPixels <= Math.max(paddingFactor * maxPixels, leastPixels);
}

function planAt(output: PixelSize, restored: PixelSize, model: SizedModel): Geometry {
  const { downscale } = model.manifest.latents;
  const { step } = model.tilePolicy;
  const cells = (pixels: number) => roundUp(Math.ceil(pixels / downscale), step);
  const latents = { width: cells(restored.width), height: cells(restored.height) };
  const window = { y: 0, x: 0, ...restored };
  const whole = { window, latents, ...wholeCut(restored, { y: 0, x: 0, ...output }) };
  return { output, extent: restored, restored, latents, sections: [whole] };
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
  if ((inSections > whole || !fits) && takesSections(model)) {
    const limits = { maxPixels: maxPixels / sectionsHeld, maxSide: maxReducedSide };
    const parts = planSections(output, inSections / scale, model, limits);
    // Sections come in steps of the scale, which may be below what fits as it is.
    if (parts && !(fits && parts.restored.width <= planned.restored.width)) {
      return { ...planAt(output, parts.restored, model), ...parts };
    }
  }
  return fits && whole >= leastReduction * scale ? planned : planAt(output, output, model);
}
