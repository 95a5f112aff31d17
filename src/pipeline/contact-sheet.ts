/**
 * One photo at many dials on one labelled sheet (the paper's Figure 1): what the encoder and the UNet give is
 * computed once, or found kept; each cell costs a decode.
 */
import type { Evaluations } from '../jobs/job.ts';
import type { UpscaleParams } from '../jobs/params.ts';
import { checkSheet, planSheet, type SheetLayout, type Sweep } from '../jobs/sheet.ts';
import { prepareColorFix } from './color-fix/color-fix.ts';
import { planEvaluations, subtractResidual } from './combine.ts';
import { decodeLatents } from './decode-latents.ts';
import { encodeSamples } from './encode-image.ts';
import { drawLabel } from './label.ts';
import type { PixelSink } from './pixel-sink.ts';
import { Planar } from './planar.ts';
import { Resampled } from './resample.ts';
import { combineResiduals, keptLatents, keptResiduals } from './residuals.ts';
import {
  prepareRun,
  type Run,
  recipeOf,
  stageWeights,
  toResult,
  type UpscaleContext,
  type UpscaleResult,
} from './run.ts';
import { Samples } from './samples.ts';
import { largeImages } from './turns.ts';

/** What all cells share. */
interface Cells {
  readonly latents: Planar;
  /** By the entry of an evaluation plan that each stands for. */
  readonly residuals: ReadonlyMap<number, Planar>;
  readonly resampled: Resampled;
}

/**
 * @param params its dials are not used; alpha and metadata have no place on a sheet
 * @throws as `upscale` does
 */
export async function contactSheet(
  lowRes: Uint8Array,
  params: UpscaleParams,
  sweep: Sweep,
  context: UpscaleContext,
): Promise<UpscaleResult> {
  const run = await prepareRun(lowRes, params, context);
  const { geometry, control } = run;
  const layout = planSheet(geometry.output, sweep);
  checkSheet(layout, params.format, context.limits.maxOutputPixels);
  const { sheet, evaluations } = await largeImages.take(layout, context.signal, () =>
    paintSheet(run, sweep, layout),
  );
  const recipe = recipeOf(params, run, context);
  const description = JSON.stringify({ ...JSON.parse(recipe.description), ...sweep });
  const image = await control.stage('encode_image', () =>
    encodeSamples(sheet, params, { ...recipe, description }),
  );
  return toResult(image, layout, params, run, evaluations);
}

async function paintSheet(
  run: Run,
  sweep: Sweep,
  layout: SheetLayout,
): Promise<{ sheet: Samples; evaluations: Evaluations }> {
  const { input, geometry, control } = run;
  const resampled = new Resampled(input.rgb, geometry.output);
  const latents = await control.stage('encode_latents', () => keptLatents(resampled, run));
  const pairs = sweep.sem.flatMap((sem, row) =>
    sweep.pix.map((pix, column) => ({ pix, sem, row, column })),
  );
  const semantic = [
    ...new Set(pairs.flatMap(({ pix, sem }) => planEvaluations(pix, sem).semantic)),
  ];
  const { tensors, evaluations } = await control.stage('predict_residual', () =>
    keptResiduals(latents, semantic, run),
  );
  const residuals = new Map(semantic.map((which, i) => [which, tensors[i] as Planar]));
  const { dot } = layout;
  const sheet = new Samples(layout);
  sheet.data.fill(255);
  for (const [column, pix] of sweep.pix.entries()) {
    drawLabel(sheet, `pix ${pix}`, { x: layout.cell(column, 0).x, y: 4 * dot }, dot);
  }
  for (const [row, sem] of sweep.sem.entries()) {
    const { y } = layout.cell(0, row);
    drawLabel(
      sheet,
      `sem ${sem}`,
      { x: 4 * dot, y: y + Math.floor(geometry.output.height / 2) },
      dot,
    );
  }
  const weights = stageWeights(geometry, evaluations);
  control.setWeights({ ...weights, decode_latents: pairs.length * weights.decode_latents });
  const cells = { latents, residuals, resampled };
  for (const [index, { pix, sem, row, column }] of pairs.entries()) {
    const part = { index, count: pairs.length };
    // One stage for all of a cell, colour fix included, so that progress is that of the sheet.
    await control.stage(
      'decode_latents',
      () => {
        const cell = sheet.part({ ...layout.cell(column, row), ...geometry.output });
        return restoreCell(cell, pix, sem, run, cells);
      },
      part,
    );
  }
  return { sheet, evaluations };
}

/** Fills the cell of one pair of dials. */
async function restoreCell(
  cell: PixelSink,
  pix: number,
  sem: number,
  run: Run,
  { latents, residuals, resampled }: Cells,
): Promise<void> {
  const { model, control } = run;
  const plan = planEvaluations(pix, sem);
  const { channels, height, width } = latents;
  const restored = new Planar(channels, height, width);
  restored.data.set(latents.data);
  if (plan.evaluations > 0) {
    const epsilon = new Planar(channels, height, width);
    const tensors = plan.semantic.map((which) => residuals.get(which) as Planar);
    const dials = { lambdaPix: pix, lambdaSem: sem };
    await combineResiduals(tensors, epsilon, { plan, dials, control });
    await subtractResidual(restored, epsilon, control);
  }
  const colors = prepareColorFix(cell, resampled, run);
  await decodeLatents(restored, colors.decoded, model, control);
  await colors.finish();
}
