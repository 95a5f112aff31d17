/**
 * A dial that differs over the image: a grey picture over the whole photo, white = the dial's value,
 * black = 0, brought to one value per latent cell.
 */
import type { ImageLimits } from '../images/inspect-image.ts';
import { decodeImage } from './decode-image.ts';
import type { Geometry } from './geometry.ts';
import { Planar } from './planar.ts';
import { Resampled } from './resample.ts';
import type { RunControl } from './run-control.ts';

/** Luma of gamma-encoded RGB (ITU-R BT.709); grey stays itself. */
const luma = [0.2126, 0.7152, 0.0722] as const;

/**
 * The map is stretched over the output, then averaged over each cell, so that it fits whatever its own
 * size is; the padding beyond the output repeats the edge.
 * @param bytes an image of an allowed format; alpha is ignored
 * @param dial the value that white stands for
 * @param downscale output pixels per latent cell and axis
 * @returns [h,w] in [0, dial]
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image
 */
export async function readStrengthMap(
  bytes: Uint8Array,
  dial: number,
  { output, latents }: Geometry,
  downscale: number,
  limits: ImageLimits,
  control: RunControl,
): Promise<Float32Array> {
  const { rgb } = await decodeImage(bytes, limits, control);
  const grey = new Planar(1, rgb.height, rgb.width);
  const pixels = rgb.height * rgb.width;
  for (const [c, weight] of luma.entries()) {
    for (let i = 0; i < pixels; i++) {
      grey.data[i] = (grey.data[i] as number) + weight * (rgb.data[c * pixels + i] as number);
    }
    await control.breathe();
  }
  const resampled = new Resampled(grey, output);
  const width = latents.width * downscale;
  const row = new Float32Array(downscale * width);
  const map = new Float32Array(latents.height * latents.width);
  const share = dial / (downscale * downscale);
  for (let y = 0; y < latents.height; y++) {
    resampled.readClipped({ y: y * downscale, x: 0, height: downscale, width }, row);
    for (let i = 0; i < row.length; i++) {
      const cell = y * latents.width + Math.floor((i % width) / downscale);
      map[cell] = (map[cell] as number) + share * (row[i] as number);
    }
    await control.breathe();
  }
  return map;
}
