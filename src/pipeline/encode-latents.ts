/**
 * Stage 3: resampled pixels → latents, tile by tile, cut hard in the middle of the overlaps; or, where the
 * encoder's receptive field is the whole image, in strips.
 */
import type { Geometry } from './geometry.ts';
import type { Model } from './model.ts';
import { Planar, planesToRows, writeRegion } from './planar.ts';
import type { Resampled } from './resample.ts';
import type { RunControl } from './run-control.ts';
import { type RowSource, runStrips } from './strips/run-strips.ts';
import type { StageSessions } from './strips/stage-sessions.ts';
import { planTiles } from './tiles.ts';

/** [0,1] → [−1,1], the range of the encoder's input. */
function toModelRange(pixels: Float32Array): void {
  for (let k = 0; k < pixels.length; k++) pixels[k] = 2 * (pixels[k] as number) - 1;
}

/** @param latents [C,h,w], filled */
async function encodeInStrips(
  resampled: Resampled,
  latents: Planar,
  stages: StageSessions,
  model: Model,
  control: RunControl,
): Promise<void> {
  const { downscale } = model.manifest.latents;
  const { tileLatents } = model.manifest.graphs.encoder;
  const width = latents.width * downscale;
  const source: RowSource = (y, rows, target) => {
    const pixels = new Float32Array(target.length);
    resampled.readClipped({ y, x: 0, height: rows, width }, pixels);
    toModelRange(pixels);
    planesToRows(pixels, { channels: 3, rows, width }, target);
  };
  await runStrips({
    stages,
    source,
    sink: (y, rows, values) => {
      for (let row = 0; row < rows; row++) {
        for (let c = 0; c < latents.channels; c++) {
          const from = (row * latents.channels + c) * latents.width;
          const to = (c * latents.height + y + row) * latents.width;
          latents.data.set(values.subarray(from, from + latents.width), to);
        }
      }
    },
    size: { height: latents.height * downscale, width },
    latentWidth: latents.width,
    stripCells: tileLatents ** 2,
    control,
  });
}

/**
 * @param resampled [3,H,W] in [0,1]; read with repeated edges up to the padded size
 * @returns [C,h,w] scaled latents. Exact where the encoder's receptive radius is finite and the overlap
 *   is at least twice that, which `loadManifest` checks; and where the bundle has the encoder in stages.
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
  const stages = plan.tiles.length > 1 ? model.stagesOf('encoder') : undefined;
  if (stages) {
    await encodeInStrips(resampled, latents, stages, model, control);
    return latents;
  }
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
    toModelRange(pixels);
    await model.encodeLatents(pixels, size, tileLatents);
    const from = { ...own, y: own.y - region.y, x: own.x - region.x };
    writeRegion(latents, own, tileLatents, size, from);
    control.advanceTo((i + 1) / plan.tiles.length);
    await control.yield();
  }
  return latents;
}
