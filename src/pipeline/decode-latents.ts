/**
 * Stage 6: latents → pixels, tile by tile, cut hard in the middle of the overlaps, padding dropped; or, where
 * the decoder's receptive field is the whole image, in strips.
 */
import { AppError } from '../errors.ts';
import type { Model } from './model.ts';
import type { PixelSink } from './pixel-sink.ts';
import { type Planar, planesToRows, type Region, readRegion } from './planar.ts';
import type { RunControl } from './run-control.ts';
import { runStrips } from './strips/run-strips.ts';
import type { StageSessions } from './strips/stage-sessions.ts';
import { planTiles } from './tiles.ts';

/**
 * Model range [−1,1] → [0,1], clipped, in place. A graph in float16 can overflow, and its NaN would become black pixels
 * without a word.
 * @throws model_failed
 */
function toUnitRange(pixels: Float32Array, model: Model): void {
  let sum = 0;
  for (let i = 0; i < pixels.length; i++) {
    const value = pixels[i] as number;
    sum += value;
    pixels[i] = Math.min(1, Math.max(0, 0.5 * value + 0.5));
  }
  if (!Number.isNaN(sum)) return;
  const { name, version } = model.manifest;
  const detail = `The model ${name} ${version} gave values that are no numbers (NaN). Choose another model; its operator finds more in the log.`;
  const cause = new Error('NaN in the decoder output: float16 overflow in a graph of this bundle?');
  throw new AppError('model_failed', detail, { cause });
}

/** Passes on `own` (in output pixels; what lies beyond the output is padding) of a tile that begins at (y, x). */
function putOwn(
  target: PixelSink,
  own: Region,
  origin: { y: number; x: number },
  tile: Float32Array,
  tileSize: { height: number; width: number },
): void {
  const endY = Math.min(own.y + own.height, target.height);
  const length = Math.min(own.x + own.width, target.width) - own.x;
  if (length <= 0) return;
  for (let y = own.y; y < endY; y++) {
    const start = (y - origin.y) * tileSize.width + own.x - origin.x;
    target.put(y, own.x, { values: tile, start, stride: tileSize.height * tileSize.width, length });
  }
}

async function decodeInStrips(
  latents: Planar,
  target: PixelSink,
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
    source: (y, rows, strip) => {
      const planes = new Float32Array(strip.length);
      readRegion(latents, { y, x: 0, height: rows, width }, planes);
      planesToRows(planes, { channels, rows, width }, strip);
    },
    sink: (y, rows, values) => {
      toUnitRange(values, model);
      for (let row = 0; row < Math.min(rows, target.height - y); row++) {
        const start = row * 3 * paddedWidth;
        target.put(y + row, 0, { values, start, stride: paddedWidth, length: target.width });
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
 * @param target of the output's size: gets sRGB in [0,1]
 * @throws model_failed when the decoder gives NaN
 */
export async function decodeLatents(
  latents: Planar,
  target: PixelSink,
  model: Model,
  control: RunControl,
): Promise<void> {
  const { downscale } = model.manifest.latents;
  const plan = planTiles(latents, model.manifest.graphs.decoder, model.tilePolicy);
  const stages = plan.tiles.length > 1 ? model.stagesOf('decoder') : undefined;
  if (stages) return decodeInStrips(latents, target, stages, model, control);
  const size = { height: plan.tileHeight, width: plan.tileWidth };
  const cells = size.height * size.width;
  const input = new Float32Array(latents.channels * cells);
  const pixels = new Float32Array(3 * cells * downscale * downscale);
  const pixelSize = { height: size.height * downscale, width: size.width * downscale };
  for (const [i, { region, own }] of plan.tiles.entries()) {
    readRegion(latents, region, input);
    await model.decodeLatents(input, size, pixels);
    toUnitRange(pixels, model);
    const ownPixels = {
      y: own.y * downscale,
      x: own.x * downscale,
      height: own.height * downscale,
      width: own.width * downscale,
    };
    const origin = { y: region.y * downscale, x: region.x * downscale };
    putOwn(target, ownPixels, origin, pixels, pixelSize);
    control.advanceTo((i + 1) / plan.tiles.length);
    await control.yield();
  }
}
