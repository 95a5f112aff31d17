/**
 * The pipeline: one photo in, one larger and restored photo out. Read this first: the stages below, in
 * this order, are all that happens to an image.
 */
import { AppError } from '../errors.ts';
import type { Evaluations, Progress, StageTimings } from '../jobs/job.ts';
import {
  type ColorFix,
  contentTypeOf,
  type OutputFormat,
  type UpscaleParams,
} from '../jobs/params.ts';
import { fixColors } from './color-fix/color-fix.ts';
import { type EvaluationPlan, planEvaluations, subtractResidual } from './combine.ts';
import { decodeImage } from './decode-image.ts';
import { decodeLatents } from './decode-latents.ts';
import { checkOutput, encodeImage } from './encode-image.ts';
import { encodeLatents } from './encode-latents.ts';
import { type Geometry, planGeometry } from './geometry.ts';
import type { Model } from './model.ts';
import type { Planar } from './planar.ts';
import { type Dials, predictResidual } from './predict-residual.ts';
import { Resampled } from './resample.ts';
import { RunControl, type StageWeights } from './run-control.ts';
import { largeImages } from './turns.ts';

export interface UpscaleContext {
  model: Model;
  limits: { maxInputPixels: number; maxOutputPixels: number };
  /** Aborting it ends the run between tiles, with the signal's reason. */
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
  /** Goes into the recipe of the output. */
  software?: string;
}

export interface UpscaleResult {
  image: Uint8Array;
  format: OutputFormat;
  contentType: string;
  width: number;
  height: number;
  /** Upright. */
  input: { width: number; height: number; contentType: string };
  colorfix: ColorFix;
  evaluations: Evaluations;
  timingsMs: StageTimings;
}

/** What all stages of one run know. */
interface Run {
  readonly model: Model;
  readonly geometry: Geometry;
  readonly dials: Dials;
  readonly plan: EvaluationPlan;
  readonly colorfix: ColorFix;
  readonly control: RunControl;
}

/**
 * @param lowRes bytes of a PNG, JPEG, WebP, AVIF or single-page TIFF
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image | unsupported_output,
 *   or the reason of `context.signal`
 */
export async function upscale(
  lowRes: Uint8Array,
  params: UpscaleParams,
  context: UpscaleContext,
): Promise<UpscaleResult> {
  const { model, limits, signal } = context;
  const control = new RunControl(signal, context.onProgress);
  const dials = { lambdaPix: params.pix, lambdaSem: params.sem };
  const plan = planEvaluations(params.pix, params.sem);
  const colorfix = params.colorfix ?? model.manifest.colorFix;

  const input = await control.stage('decode_image', () =>
    decodeImage(lowRes, { maxPixels: limits.maxInputPixels }, control),
  );
  const geometry = planGeometry(input.inspected, params.scale, model);
  checkSizes(geometry, model, limits.maxOutputPixels);
  checkOutput(geometry.output, params.format);
  control.setWeights(stageWeights(geometry, plan.evaluations));
  const superRes = await largeImages.take(geometry.output, signal, () =>
    restore(input.rgb, { model, geometry, dials, plan, colorfix, control }),
  );
  const image = await control.stage('encode_image', () =>
    encodeImage(superRes, input, params, recipeOf(params, colorfix, context), control),
  );

  return {
    image,
    format: params.format,
    contentType: contentTypeOf[params.format],
    ...geometry.output,
    input: {
      width: input.inspected.width,
      height: input.inspected.height,
      contentType: input.inspected.contentType,
    },
    colorfix,
    evaluations: plan.evaluations,
    timingsMs: control.timingsMs,
  };
}

/**
 * The stages between decoding and encoding the file. Image-sized buffers are released as soon as they are dead.
 * @param lowRes [3,H,W] sRGB in [0,1]
 * @returns [3,H,W] of the output's size, sRGB in about [0,1]
 */
async function restore(lowRes: Planar, run: Run): Promise<Planar> {
  const { model, geometry, dials, plan, control } = run;
  // Lazy: its rows are computed where they are read, so its time is part of the stages that read it.
  const resampled = new Resampled(lowRes, geometry.output);
  const latents = await control.stage('encode_latents', () =>
    encodeLatents(resampled, geometry, model, control),
  );
  await control.stage('predict_residual', async () => {
    if (plan.evaluations === 0) return;
    const residual = await predictResidual(latents, plan, dials, model, control);
    await subtractResidual(latents, residual, control);
    residual.release();
  });
  const superRes = await control.stage('decode_latents', () =>
    decodeLatents(latents, geometry, model, control),
  );
  latents.release();
  await control.stage('color_fix', () => fixColors(superRes, resampled, run.colorfix, control));
  return superRes;
}

/** Padding may cost this many times the pixels of the largest output: more than any usual image needs. */
const paddingFactor = 2;

function checkSizes({ output, latents }: Geometry, model: Model, maxPixels: number): void {
  const size = `The output would be ${output.width} × ${output.height} pixels`;
  const advice = 'Send a smaller image or ask for a smaller scale.';
  if (output.width * output.height > maxPixels) {
    const detail = `${size}, which exceeds the limit of ${maxPixels} pixels. ${advice}`;
    throw new AppError('too_many_pixels', detail);
  }
  // An image of 4,000,000 × 1 pixels has few pixels, but 16 times as many once it is padded.
  const paddedPixels = latents.width * latents.height * model.manifest.latents.downscale ** 2;
  const leastPixels = (model.tilePolicy.smallestImage * model.manifest.latents.downscale) ** 2;
  if (paddedPixels > Math.max(paddingFactor * maxPixels, leastPixels)) {
    const detail = `${size}; so narrow an image is padded to ${paddedPixels} pixels for the model, which is too many. ${advice}`;
    throw new AppError('too_many_pixels', detail);
  }
}

/** Shares of the work, measured on a CPU with the embedded model: relative costs per output pixel. */
function stageWeights({ output }: Geometry, evaluations: Evaluations): StageWeights {
  const pixels = output.width * output.height;
  return {
    decode_image: 0.02 * pixels,
    encode_latents: 0.1 * pixels,
    predict_residual: 0.3 * evaluations * pixels,
    decode_latents: 0.5 * pixels,
    color_fix: 0.05 * pixels,
    encode_image: 0.1 * pixels,
  };
}

function recipeOf(params: UpscaleParams, colorfix: ColorFix, { model, software }: UpscaleContext) {
  const { name, version } = model.manifest;
  const { pix, sem, scale } = params;
  return {
    software: software ?? 'pisa-serve',
    description: JSON.stringify({ pix, sem, scale, colorfix, model: name, version }),
  };
}
