/**
 * The pipeline: one photo in, one larger and restored photo out. Read this first: the stages below, in
 * this order, are all that happens to an image.
 */
import type { Evaluations } from '../jobs/job.ts';
import type { UpscaleParams } from '../jobs/params.ts';
import { prepareColorFix } from './color-fix/color-fix.ts';
import { subtractResidual } from './combine.ts';
import { decodeLatents } from './decode-latents.ts';
import { encodeImage } from './encode-image.ts';
import type { Planar } from './planar.ts';
import { prepareReduction } from './reduce.ts';
import { Resampled } from './resample.ts';
import { combineResiduals, keptLatents, keptResiduals } from './residuals.ts';
import {
  prepareRun,
  type Run,
  recipeOf,
  type SectionRun,
  sectionRuns,
  toResult,
  type UpscaleContext,
  type UpscaleResult,
} from './run.ts';
import { Samples } from './samples.ts';
import { largeImages } from './turns.ts';

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
  const { superRes, evaluations } = await largeImages.take(geometry.restored, context.signal, () =>
    restore(run),
  );
  const image = await control.stage('encode_image', () =>
    encodeImage(superRes, input, params, recipeOf(params, run, context), control),
  );
  return toResult(image, geometry.output, params, run, evaluations);
}

/**
 * The stages between decoding and encoding the file, for one section of the photo after the other: mostly there is one.
 * @returns sRGB of the output's size, with room for the input's alpha
 */
async function restore(run: Run): Promise<{ superRes: Samples; evaluations: Evaluations }> {
  const { input, geometry } = run;
  const superRes = new Samples(geometry.output, input.alpha ? 4 : 3);
  let evaluations: Evaluations = 0;
  for (const section of sectionRuns(run)) {
    evaluations = await restoreSection(superRes, section);
  }
  input.rgb.release();
  return { superRes, evaluations };
}

/**
 * Image-sized buffers are released as soon as they are dead.
 * @returns how many evaluations the UNet had to run
 */
async function restoreSection(
  superRes: Samples,
  { section, part: run, isLast }: SectionRun,
): Promise<Evaluations> {
  const { model, input, geometry, control } = run;
  // Lazy: its rows are computed where they are read, so its time is part of the stages that read it.
  const resampled = new Resampled(input.rgb, geometry.extent, section.window);
  const latents = await control.stage('encode_latents', () => keptLatents(resampled, run));
  if (isLast && run.colorfix === 'none') input.rgb.release();
  const evaluations = await control.stage('predict_residual', () => restoreLatents(latents, run));
  const reduction = prepareReduction(superRes, section.window, section, control);
  const colors = prepareColorFix(reduction.restored, resampled, run);
  await control.stage('decode_latents', () =>
    decodeLatents(latents, colors.decoded, model, control),
  );
  latents.release();
  await control.stage('color_fix', async () => {
    await colors.finish();
    await reduction.finish();
  });
  return evaluations;
}

/**
 * z_L → z_H, in place.
 * @returns how many evaluations the UNet had to run
 */
async function restoreLatents(latents: Planar, run: Run): Promise<Evaluations> {
  if (run.plan.evaluations === 0) return 0;
  const { tensors, evaluations } = await keptResiduals(latents, run.plan.semantic, run);
  const [residual] = tensors as [Planar, ...Planar[]];
  await combineResiduals(tensors, residual, run);
  await subtractResidual(latents, residual, run.control);
  for (const tensor of tensors) tensor.release();
  return evaluations;
}
