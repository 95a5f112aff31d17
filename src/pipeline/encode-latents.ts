/** Stage 3: resampled pixels → latents, tile by tile, cut hard in the middle of the overlaps. */
import type { Geometry } from './geometry.ts';
import type { Model } from './model.ts';
import { Planar, writeRegion } from './planar.ts';
import type { Resampled } from './resample.ts';
import type { RunControl } from './run-control.ts';
import { planTiles } from './tiles.ts';

/**
 * @param resampled [3,H,W] in [0,1]; read with repeated edges up to the padded size
 * @returns [C,h,w] scaled latents. Exact where the encoder's receptive radius is finite and the overlap
 *   is at least twice that, which `loadManifest` checks.
 */
export async function encodeLatents(
  resampled: Resampled,
  geometry: Geometry,
  model: Model,
  control: RunControl,
): Promise<Planar> {
  const { channels, downscale } = model.manifest.latents;
  const latents = new Planar(channels, geometry.latents.height, geometry.latents.width);
  const plan = planTiles(geometry.latents, model.manifest.graphs.encoder, model.tilePolicy);
  const size = { height: plan.tileHeight, width: plan.tileWidth };
  const cells = size.height * size.width;
  const pixels = new Float32Array(3 * cells * downscale * downscale);
  const tileLatents = new Float32Array(channels * cells);
  for (const [i, { region, own }] of plan.tiles.entries()) {
    const pixelRegion = {
      y: region.y * downscale,
      x: region.x * downscale,
      height: region.height * downscale,
      width: region.width * downscale,
    };
    resampled.readClipped(pixelRegion, pixels);
    // [0,1] → [−1,1], the range of the encoder's input.
    for (let k = 0; k < pixels.length; k++) pixels[k] = 2 * (pixels[k] as number) - 1;
    await model.encode(pixels, size, tileLatents);
    const from = { ...own, y: own.y - region.y, x: own.x - region.x };
    writeRegion(latents, own, tileLatents, size, from);
    control.advanceTo((i + 1) / plan.tiles.length);
    await control.yield();
  }
  return latents;
}
