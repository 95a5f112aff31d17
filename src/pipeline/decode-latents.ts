/**
 * Stage 6: latents → pixels, tile by tile, cut hard in the middle of the overlaps, padding dropped; or, where
 * the decoder's receptive field is the whole image, in strips.
 */
import { AppError } from '../errors.ts';
import type { Geometry } from './geometry.ts';
import type { Model } from './model.ts';
import { Planar, planesToRows, type Region, readRegion } from './planar.ts';
import type { RunControl } from './run-control.ts';
import { runStrips } from './strips/run-strips.ts';
import type { StageSessions } from './strips/stage-sessions.ts';
import { planTiles } from './tiles.ts';

/** Model range [−1,1] → [0,1], clipped. NaN stays NaN. */
const toUnit = (value: number): number => Math.min(1, Math.max(0, 0.5 * value + 0.5));

/**
 * A graph in float16 can overflow, and its NaN would become black pixels without a word.
 * @throws model_failed
 */
function refuseNaN(pixels: Float32Array, model: Model): void {
  let sum = 0;
  for (let i = 0; i < pixels.length; i++) sum += pixels[i] as number;
  if (!Number.isNaN(sum)) return;
  const { name, version } = model.manifest;
  const detail = `The model ${name} ${version} gave values that are no numbers (NaN). Choose another model; its operator finds more in the log.`;
  const cause = new Error('NaN in the decoder output: float16 overflow in a graph of this bundle?');
  throw new AppError('model_failed', detail, { cause });
}

/** Copies `own` (in output pixels, clipped to the output) out of a tile that begins at (y, x). */
function writePixels(
  target: Planar,
  own: Region,
  origin: { y: number; x: number },
  tile: Float32Array,
  tileSize: { height: number; width: number },
): void {
  const endY = Math.min(own.y + own.height, target.height);
  const endX = Math.min(own.x + own.width, target.width);
  for (let c = 0; c < target.channels; c++) {
    for (let y = own.y; y < endY; y++) {
      const from = (c * tileSize.height + y - origin.y) * tileSize.width - origin.x;
      const to = (c * target.height + y) * target.width;
      for (let x = own.x; x < endX; x++) target.data[to + x] = toUnit(tile[from + x] as number);
    }
  }
}

/** @param decoded [3,H,W], filled */
async function decodeInStrips(
  latents: Planar,
  decoded: Planar,
  stages: StageSessions,
  model: Model,
  control: RunControl,
): Promise<void> {
  const { downscale } = model.manifest.latents;
  const { tileLatents } = model.manifest.graphs.decoder;
  const { channels, width } = latents;
  const paddedWidth = width * downscale;
  await runStrips({
    stages,
    source: (y, rows, target) => {
      const planes = new Float32Array(target.length);
      readRegion(latents, { y, x: 0, height: rows, width }, planes);
      planesToRows(planes, { channels, rows, width }, target);
    },
    sink: (y, rows, values) => {
      refuseNaN(values, model);
      for (let row = 0; row < Math.min(rows, decoded.height - y); row++) {
        for (let c = 0; c < 3; c++) {
          const from = (row * 3 + c) * paddedWidth;
          const to = (c * decoded.height + y + row) * decoded.width;
          for (let x = 0; x < decoded.width; x++) {
            decoded.data[to + x] = toUnit(values[from + x] as number);
          }
        }
      }
    },
    size: latents,
    latentWidth: width,
    stripCells: tileLatents ** 2,
    control,
  });
}

/**
 * @param latents [C,h,w] scaled
 * @returns [3,H,W] sRGB in [0,1], of the output's size
 * @throws model_failed when the decoder gives NaN
 */
export async function decodeLatents(
  latents: Planar,
  geometry: Geometry,
  model: Model,
  control: RunControl,
): Promise<Planar> {
  const { downscale } = model.manifest.latents;
  const { output } = geometry;
  const decoded = new Planar(3, output.height, output.width);
  const plan = planTiles(latents, model.manifest.graphs.decoder, model.tilePolicy);
  const stages = plan.tiles.length > 1 ? model.stagesOf('decoder') : undefined;
  if (stages) {
    await decodeInStrips(latents, decoded, stages, model, control);
    return decoded;
  }
  const size = { height: plan.tileHeight, width: plan.tileWidth };
  const cells = size.height * size.width;
  const input = new Float32Array(latents.channels * cells);
  const pixels = new Float32Array(3 * cells * downscale * downscale);
  const pixelSize = { height: size.height * downscale, width: size.width * downscale };
  for (const [i, { region, own }] of plan.tiles.entries()) {
    readRegion(latents, region, input);
    await model.decodeLatents(input, size, pixels);
    refuseNaN(pixels, model);
    const ownPixels = {
      y: own.y * downscale,
      x: own.x * downscale,
      height: own.height * downscale,
      width: own.width * downscale,
    };
    const origin = { y: region.y * downscale, x: region.x * downscale };
    writePixels(decoded, ownPixels, origin, pixels, pixelSize);
    control.advanceTo((i + 1) / plan.tiles.length);
    await control.yield();
  }
  return decoded;
}
