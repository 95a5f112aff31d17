/** Sizes: of the output, and of the padded image that the graphs see. */
import { outputSize, type PixelSize } from '../jobs/output-size.ts';
import type { Model } from './model.ts';
import { roundUp } from './tiles.ts';

export interface Geometry {
  /** The output: exactly round(scale × upright input), at least one pixel. */
  readonly output: PixelSize;
  /**
   * The output padded at its right and bottom, in latent cells: to a multiple of the step and no further, since
   * a graph with normalisation or attention gives every pixel another value where it sees more padding.
   */
  readonly latents: PixelSize;
}

export function planGeometry(
  input: PixelSize,
  scale: number,
  model: Pick<Model, 'manifest' | 'tilePolicy'>,
): Geometry {
  const output = outputSize(input, scale);
  const { downscale } = model.manifest.latents;
  const { step } = model.tilePolicy;
  const cells = (pixels: number) => roundUp(Math.ceil(pixels / downscale), step);
  return { output, latents: { width: cells(output.width), height: cells(output.height) } };
}
