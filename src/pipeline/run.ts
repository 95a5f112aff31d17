/** What every kind of run begins with: the photo decoded, sizes planned and checked, dials read; and what it ends in. */
import { AppError } from '../errors.ts';
import type { Evaluations, Progress, StageTimings } from '../jobs/job.ts';
import { checkOutput, type PixelLimits, type PixelSize } from '../jobs/output-size.ts';
import {
  type ColorFix,
  contentTypeOf,
  type OutputFormat,
  type UpscaleParams,
} from '../jobs/params.ts';
import { software } from '../package-info.ts';
import { type Dials, type EvaluationPlan, type Lambda, planEvaluations } from './combine.ts';
import { type DecodedPhoto, decodePhoto } from './decode-photo.ts';
import { fitsPadded, type Geometry, paddedPixelsOf, planGeometry } from './geometry.ts';
import { type KeptTensors, keptBytes, TensorKeeper } from './kept-tensors.ts';
import type { Model } from './model.ts';
import type { Region } from './planar.ts';
import type { Recipe } from './recipe.ts';
import { RunControl, type StageWeights } from './run-control.ts';
import type { Section } from './sections.ts';
import { readStrengthMap } from './strength-map.ts';

export interface StrengthMaps {
  pix?: Uint8Array;
  sem?: Uint8Array;
}

export interface UpscaleContext {
  model: Model;
  limits: PixelLimits;
  /** Aborting it ends the run between tiles, with the signal's reason. */
  signal?: AbortSignal;
  onProgress?: (progress: Progress) => void;
  /** Images of an allowed format over the whole photo: white = the dial's value, black = 0. */
  maps?: StrengthMaps;
  /** Where tensors are kept between runs on the same image. Absent: nowhere. */
  kept?: KeptTensors & { maxBytes: number };
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
  /** Runs of the UNet per tile; less than the dials need when residuals were kept. */
  evaluations: Evaluations;
  timingsMs: StageTimings;
}

/** What all stages of one run know. */
export interface Run {
  readonly model: Model;
  readonly input: DecodedPhoto;
  readonly geometry: Geometry;
  readonly dials: Dials;
  readonly plan: EvaluationPlan;
  readonly colorfix: ColorFix;
  readonly keeper: TensorKeeper;
  readonly control: RunControl;
}

/**
 * @param lowRes bytes of a PNG, JPEG, WebP, AVIF or single-page TIFF
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image | unsupported_output, or the reason
 *   of `context.signal`
 */
export async function prepareRun(
  lowRes: Uint8Array,
  params: UpscaleParams,
  context: UpscaleContext,
): Promise<Run> {
  const { model, limits, maps, kept } = context;
  const colorfix = params.colorfix ?? model.manifest.colorFix;
  const control = new RunControl(context.signal, context.onProgress);
  return control.stage('decode_image', async () => {
    const imageLimits = { maxPixels: limits.maxInputPixels };
    // The statistics of `adain` are of the whole picture.
    const maxInSections = colorfix === 'adain' ? 0 : limits.maxRestoredPixels;
    const plan = (size: PixelSize) =>
      planGeometry(size, params.scale, model, limits.maxOutputPixels, maxInSections);
    const admitSize = (size: PixelSize): void => {
      checkOutput(size, params, limits.maxOutputPixels);
      checkPadding(plan(size), model, limits.maxOutputPixels);
    };
    const input = await decodePhoto(lowRes, { ...imageLimits, admitSize }, control);
    const geometry = plan(input.inspected);
    const { downscale } = model.manifest.latents;
    const dial = (value: number, map: Uint8Array | undefined) =>
      map ? readStrengthMap(map, value, geometry, downscale, imageLimits, control) : value;
    const dials = {
      lambdaPix: await dial(params.pix, maps?.pix),
      lambdaSem: await dial(params.sem, maps?.sem),
    };
    const evaluationPlan = planEvaluations(dials.lambdaPix, dials.lambdaSem);
    const fits =
      kept !== undefined &&
      geometry.sections.length === 1 &&
      keptBytes(geometry, model) <= kept.maxBytes;
    const keeper = new TensorKeeper(fits ? kept : undefined, geometry, model, control);
    control.setWeights(stageWeights(geometry, evaluationPlan.evaluations));
    return { model, input, geometry, dials, plan: evaluationPlan, colorfix, keeper, control };
  });
}

export interface SectionRun {
  readonly section: Section;
  /** Of this section: its latents and its dials are the section's. */
  readonly part: Run;
  /** No other section needs the input. */
  readonly isLast: boolean;
}

/** One section of the photo after the other; progress is that of the section which was given last. */
export function* sectionRuns(run: Run): Generator<SectionRun> {
  const { sections } = run.geometry;
  for (const [index, section] of sections.entries()) {
    run.control.beginSection({ index, count: sections.length });
    const part = sections.length === 1 ? run : partOf(run, section);
    yield { section, part, isLast: index === sections.length - 1 };
  }
}

function partOf(run: Run, { window, latents }: Section): Run {
  const { model, geometry, dials } = run;
  const { downscale } = model.manifest.latents;
  const cells = { ...latents, y: window.y / downscale, x: window.x / downscale };
  const part = (dial: Lambda) =>
    typeof dial === 'number' ? dial : readCells(dial, geometry.latents, cells);
  return {
    ...run,
    geometry: { ...geometry, latents },
    dials: { lambdaPix: part(dials.lambdaPix), lambdaSem: part(dials.lambdaSem) },
  };
}

/** @param map [size.height, size.width] */
function readCells(map: Float32Array, { width }: PixelSize, cells: Region): Float32Array {
  const part = new Float32Array(cells.height * cells.width);
  for (let row = 0; row < cells.height; row++) {
    const from = (cells.y + row) * width + cells.x;
    part.set(map.subarray(from, from + cells.width), row * cells.width);
  }
  return part;
}

/** @throws too_many_pixels */
function checkPadding(geometry: Geometry, model: Model, maxPixels: number): void {
  if (fitsPadded(geometry, model, maxPixels)) return;
  const { output } = geometry;
  const paddedPixels = paddedPixelsOf(geometry, model);
  throw new AppError(
    'too_many_pixels',
    `The output would have ${output.width} × ${output.height} pixels; so narrow an image is padded to ${paddedPixels} pixels for the model, which is too many. Send a smaller image or ask for a smaller scale.`,
  );
}

/** Shares of the work, measured on a CPU with the embedded model: relative costs per pixel. */
export function stageWeights(
  { output, restored }: Geometry,
  evaluations: Evaluations,
): StageWeights {
  const pixels = restored.width * restored.height;
  return {
    decode_image: 0.02 * pixels,
    encode_latents: 0.1 * pixels,
    predict_residual: 0.3 * evaluations * pixels,
    decode_latents: 0.5 * pixels,
    color_fix: 0.05 * pixels,
    encode_image: 0.1 * output.width * output.height,
  };
}

/** What the output says of how it was made. */
export function recipeOf(
  params: UpscaleParams,
  { model, colorfix }: Pick<Run, 'model' | 'colorfix'>,
  { maps }: Pick<UpscaleContext, 'maps'>,
): Recipe {
  const { name, version } = model.manifest;
  const { pix, sem, scale } = params;
  const mapped = {
    ...(maps?.pix ? { pix_map: true } : {}),
    ...(maps?.sem ? { sem_map: true } : {}),
  };
  return {
    software,
    description: JSON.stringify({ pix, sem, ...mapped, scale, colorfix, model: name, version }),
  };
}

export function toResult(
  image: Uint8Array,
  size: PixelSize,
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
