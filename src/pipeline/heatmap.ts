/** Where detail was invented: |λ_sem (ε_PiSA − ε_pix)|, the size of the semantic term of Eq. 8, as a picture. */
import type { Evaluations } from '../jobs/job.ts';
import type { UpscaleParams } from '../jobs/params.ts';
import { bandsOf } from './bands.ts';
import type { Lambda } from './combine.ts';
import { encodeSamples } from './encode-image.ts';
import { putHeatColors } from './heat-colors.ts';
import { Planar, type Region, writeRegion } from './planar.ts';
import { isReduced, reduce, wholeCut } from './reduce.ts';
import { Resampled } from './resample.ts';
import { keptLatents, keptResiduals, type Residuals } from './residuals.ts';
import {
  prepareRun,
  type Run,
  recipeOf,
  sectionRuns,
  toResult,
  type UpscaleContext,
  type UpscaleResult,
} from './run.ts';
import { Samples } from './samples.ts';
import { meanOfCells } from './strength-map.ts';
import { largeImages } from './turns.ts';

/**
 * @param params `format` is that of the picture
 * @returns a picture of the output's size; its ImageDescription says what its brightest colour stands for
 */
export async function heatmap(
  lowRes: Uint8Array,
  params: UpscaleParams,
  context: UpscaleContext,
): Promise<UpscaleResult> {
  const run = await prepareRun(lowRes, params, context);
  const { geometry, control } = run;
  const { output, restored } = geometry;
  const { samples, most, evaluations } = await largeImages.take(
    restored,
    context.signal,
    async () => {
      const { size, evaluations } = await semanticSizes(run);
      await hideTransparent(size, run);
      return { ...(await paint(size, run)), evaluations };
    },
  );
  const recipe = recipeOf(params, run, context);
  const facts = { heatmap: 'mean over channels of |sem (eps_pisa - eps_pix)|', brightest: most };
  const description = JSON.stringify({ ...facts, ...JSON.parse(recipe.description) });
  const image = await control.stage('encode_image', () =>
    encodeSamples(samples, params, { ...recipe, description }),
  );
  return toResult(image, output, params, run, evaluations);
}

/** @returns [1,h,w] of all sections together, and how many evaluations of the UNet they took */
async function semanticSizes(run: Run): Promise<{ size: Planar; evaluations: Evaluations }> {
  const { model, geometry } = run;
  const { downscale } = model.manifest.latents;
  const size = new Planar(1, geometry.latents.height, geometry.latents.width);
  let evaluations: Evaluations = 0;
  for (const { section, part } of sectionRuns(run)) {
    const { window, visible, latents } = section;
    const residuals = await bothResiduals(window, part);
    const partial = await semanticSize(residuals, part.dials.lambdaSem, part);
    for (const tensor of residuals.tensors) tensor.release();
    // With its margins behind it, where the sections that follow put theirs; before it lie those that are done.
    const y = Math.floor(visible.y / downscale);
    const x = Math.floor(visible.x / downscale);
    const from = { y, x, height: latents.height - y, width: latents.width - x };
    const at = { y: window.y / downscale + y, x: window.x / downscale + x };
    writeRegion(size, at, partial.data, latents, from);
    evaluations = residuals.evaluations;
  }
  return { size, evaluations };
}

/** ε_pix and ε_PiSA of a section, [C,h,w] each. */
async function bothResiduals(window: Region, run: Run): Promise<Residuals> {
  const { input, geometry, control } = run;
  const resampled = new Resampled(input.rgb, geometry.extent, window);
  const latents = await control.stage('encode_latents', () => keptLatents(resampled, run));
  const residuals = await control.stage('predict_residual', () =>
    keptResiduals(latents, [0, 1], run),
  );
  latents.release();
  return residuals;
}

/** @returns [1,h,w], the mean over channels of |λ_sem (ε_PiSA − ε_pix)| */
async function semanticSize(
  { tensors }: Residuals,
  sem: Lambda,
  { control }: Run,
): Promise<Planar> {
  const [epsPix, epsPisa] = tensors as [Planar, Planar];
  const { channels, height, width } = epsPix;
  const size = new Planar(1, height, width);
  const cells = height * width;
  for (let c = 0; c < channels; c++) {
    for (let i = 0; i < cells; i++) {
      const lambda = typeof sem === 'number' ? sem : (sem[i] as number);
      const difference =
        (epsPisa.data[c * cells + i] as number) - (epsPix.data[c * cells + i] as number);
      size.data[i] = (size.data[i] as number) + Math.abs(lambda * difference) / channels;
    }
    await control.breathe();
  }
  return size;
}

/** What no one sees is nothing: else it may be the most, and all that is seen nearly black. In place. */
async function hideTransparent(
  size: Planar,
  { model, input, geometry, control }: Run,
): Promise<void> {
  if (!input.alpha) return;
  const alpha = new Resampled(input.alpha, geometry.restored);
  const { downscale } = model.manifest.latents;
  const shares = await meanOfCells(alpha, geometry.latents, downscale, control);
  for (const [i, share] of shares.entries()) size.data[i] = (size.data[i] as number) * share;
}

/** The largest value of the first `width` × `height` cells: padding lies behind them, and no one sees it. */
function mostInside(size: Planar, width: number, height: number): number {
  let most = 0;
  for (let y = 0; y < height; y++) {
    const row = size.data.subarray(y * size.width, y * size.width + width);
    for (const value of row) most = Math.max(most, value);
  }
  return most;
}

/** @returns a picture of the output's size, and the value of the brightest colour */
async function paint(
  size: Planar,
  { model, geometry, control }: Run,
): Promise<{ samples: Samples; most: number }> {
  const { output, restored, sections } = geometry;
  const { downscale } = model.manifest.latents;
  const padded = { width: size.width * downscale, height: size.height * downscale };
  const cells = (pixels: number) => Math.ceil(pixels / downscale);
  const most = mostInside(size, cells(restored.width), cells(restored.height));
  const samples = new Samples(output);
  for (const { window, visible, reduced, place } of sections) {
    const { height, width } = visible;
    const y0 = window.y + visible.y;
    const x0 = window.x + visible.x;
    // It repeats its edges where `visible` reaches beyond the picture.
    const resampled = new Resampled(size, padded, {
      y: y0,
      x: x0,
      height: Math.min(height, restored.height - y0),
      width: Math.min(width, restored.width - x0),
    });
    const isOutput = !isReduced(visible, place);
    const part = isOutput ? samples : new Samples(visible);
    for (const { y, height: rows } of bandsOf(visible)) {
      const band = new Float32Array(rows * width);
      resampled.read({ y, x: 0, height: rows, width }, band);
      putHeatColors(band, most, part.data.subarray(3 * y * width));
      await control.breathe();
    }
    if (isOutput) continue;
    await reduce(part, samples, { ...wholeCut(visible, reduced), place }, control);
  }
  return { samples, most };
}
