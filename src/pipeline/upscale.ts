/**
 * The pipeline: one photo in, one larger and restored photo out. Read this first: the stages below, in
 * this order, are all that happens to an image.
 */
import type { Evaluations, StageTimings } from '../jobs/job.ts';
import {
  type ColorFix,
  contentTypeOf,
  type OutputFormat,
  type UpscaleParams,
} from '../jobs/params.ts';
import { fixColors } from './color-fix/color-fix.ts';
import { subtractResidual } from './combine.ts';
import { decodeLatents } from './decode-latents.ts';
import { checkOutput, encodeImage } from './encode-image.ts';
import { makeGrey } from './grey.ts';
import type { Planar } from './planar.ts';
import { Resampled } from './resample.ts';
import { combineResiduals, keptLatents, keptResiduals } from './residuals.ts';
import { prepareRun, type Run, recipeOf, type UpscaleContext } from './run.ts';
import { largeImages } from './turns.ts';

export interface UpscaleResult {
  image: Uint8Array;
  format: OutputFormat;
  contentType: string;
  width: number;
  height: number;
  /** Upright. */
  input: { width: number; height: number; contentType: string };
  colorfix: ColorFix;
  /** Runs of the UNet per tile; less than the dials need when residuals were kept. */
  evaluations: Evaluations;
  timingsMs: StageTimings;
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
  const run = await prepareRun(lowRes, params, context);
  const { input, geometry, control } = run;
  checkOutput(geometry.output, params.format);
  const { superRes, evaluations } = await largeImages.take(geometry.output, context.signal, () =>
    restore(run),
  );
  const image = await control.stage('encode_image', () =>
    encodeImage(superRes, input, params, recipeOf(params, run, context), control),
  );
  return toResult(image, geometry.output, params, run, evaluations);
}

export function toResult(
  image: Uint8Array,
  size: { width: number; height: number },
  { format }: UpscaleParams,
  { input, colorfix, control }: Run,
  evaluations: Evaluations,
): UpscaleResult {
  const { width, height, contentType } = input.inspected;
  return {
    image,
    format,
    contentType: contentTypeOf[format],
    width: size.width,
    height: size.height,
    input: { width, height, contentType },
    colorfix,
    evaluations,
    timingsMs: control.timingsMs,
  };
}

/**
 * The stages between decoding and encoding the file. Image-sized buffers are released as soon as they are dead.
 * @returns [3,H,W] of the output's size, sRGB in about [0,1]
 */
async function restore(run: Run): Promise<{ superRes: Planar; evaluations: Evaluations }> {
  const { model, input, geometry, keeper, control } = run;
  // Lazy: its rows are computed where they are read, so its time is part of the stages that read it.
  const resampled = new Resampled(input.rgb, geometry.output);
  const latents = await control.stage('encode_latents', () =>
    keptLatents(resampled, geometry, model, keeper, control),
  );
  if (run.colorfix === 'none') input.rgb.release();
  const evaluations = await control.stage('predict_residual', () => restoreLatents(latents, run));
  const superRes = await control.stage('decode_latents', () =>
    decodeLatents(latents, geometry, model, control),
  );
  latents.release();
  await control.stage('color_fix', async () => {
    await fixColors(superRes, resampled, run.colorfix, control);
    input.rgb.release();
    if (input.isGrey) await makeGrey(superRes, control);
  });
  return { superRes, evaluations };
}

/**
 * z_L → z_H, in place.
 * @returns how many evaluations the UNet had to run
 */
async function restoreLatents(latents: Planar, run: Run): Promise<Evaluations> {
  const { model, plan, dials, keeper, control } = run;
  if (plan.evaluations === 0) return 0;
  const residuals = await keptResiduals(latents, plan.semantic, model, keeper, control);
  const [residual] = residuals.tensors as [Planar, ...Planar[]];
  await combineResiduals(residuals.tensors, plan, dials, residual, control);
  await subtractResidual(latents, residual, control);
  for (const tensor of residuals.tensors) tensor.release();
  return residuals.evaluations;
}
