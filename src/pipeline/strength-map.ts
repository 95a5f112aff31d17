/**
 * A dial that differs over the image: a grey picture over the whole photo, white = the dial's value,
 * black = 0, brought to one value per latent cell.
 */
import type { ImageLimits } from '../images/inspect-image.ts';
import type { PixelSize } from '../jobs/output-size.ts';
import { bandsOf } from './bands.ts';
import { decodeImage } from './decode-image.ts';
import type { Geometry } from './geometry.ts';
import { Planar } from './planar.ts';
import { Resampled } from './resample.ts';
import type { RunControl } from './run-control.ts';

/** Luma of gamma-encoded RGB (ITU-R BT.709); grey stays itself. */
const luma = [0.2126, 0.7152, 0.0722] as const;

/**
 * The map is stretched over what is restored, then averaged over each cell, so that it fits whatever its own
 * size is; the padding beyond it repeats the edge.
 * @param bytes an image of an allowed format; alpha is ignored
 * @param dial the value that white stands for
 * @param downscale pixels per latent cell and axis
 * @returns [h,w] in [0, dial]
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image
 */
export async function readStrengthMap(
  bytes: Uint8Array,
  dial: number,
  { restored, latents }: Pick<Geometry, 'restored' | 'latents'>,
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
  const resampled = new Resampled(await shrunk(grey, restored, control), restored);
  const map = await meanOfCells(resampled, latents, downscale, control);
  for (let i = 0; i < map.length; i++) map[i] = dial * (map[i] as number);
  return map;
}

/**
 * @param resampled [1,H,W] in [0,1]; its edge is repeated up to the padded size
 * @param downscale pixels per latent cell and axis
 * @returns [h,w], the mean of each latent cell
 */
export async function meanOfCells(
  resampled: Resampled,
  latents: PixelSize,
  downscale: number,
  control: RunControl,
): Promise<Float32Array> {
  const width = latents.width * downscale;
  const row = new Float32Array(downscale * width);
  const map = new Float32Array(latents.height * latents.width);
  const share = 1 / (downscale * downscale);
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

/**
 * The map, shrunk on each axis on which it is larger than the output. A map of one column and a hundred thousand rows is
 * a file of a few hundred bytes; stretched to the width of the output before its rows are averaged, it would be more
 * than any memory holds. The cubic filter works on one axis after the other, so the order changes only the rounding.
 * @param map [1,h,w]
 * @returns [1, at most output.height, at most output.width]
 */
async function shrunk(map: Planar, output: PixelSize, control: RunControl): Promise<Planar> {
  const height = Math.min(map.height, output.height);
  const width = Math.min(map.width, output.width);
  if (height === map.height && width === map.width) return map;
  const resampled = new Resampled(map, { width, height });
  const small = new Planar(1, height, width);
  // By the size of what is read: a row of it may be the work of many rows of the map.
  const work = { width: Math.ceil((map.width * map.height) / height), height };
  for (const { y, height: rows } of bandsOf(work)) {
    const band = small.data.subarray(y * width, (y + rows) * width);
    resampled.read({ y, x: 0, height: rows, width }, band);
    await control.breathe();
  }
  return small;
}
