/**
 * One photo at many dials on one labelled sheet (the paper's Figure 1): what the encoder and the UNet give is
 * computed once, or found kept; each cell costs a decode.
 */
import type { Evaluations } from '../jobs/job.ts';
import type { UpscaleParams } from '../jobs/params.ts';
import { checkSheet, planSheet, type SheetLayout, type Sweep } from '../jobs/sheet.ts';
import { bandsOf } from './bands.ts';
import { prepareColorFix } from './color-fix/color-fix.ts';
import { planEvaluations, subtractResidual } from './combine.ts';
import { decodeLatents } from './decode-latents.ts';
import { encodeSamples } from './encode-image.ts';
import { drawLabel } from './label.ts';
import { Planar, type Region } from './planar.ts';
import { prepareReduction } from './reduce.ts';
import { Resampled } from './resample.ts';
import { combineResiduals, keptLatents, keptResiduals } from './residuals.ts';
import {
  prepareRun,
  type Run,
  recipeOf,
  type SectionRun,
  sectionRuns,
  stageWeights,
  toResult,
  type UpscaleContext,
  type UpscaleResult,
} from './run.ts';
import type { RunControl } from './run-control.ts';
import { Samples } from './samples.ts';
import type { Section } from './sections.ts';
import { largeImages } from './turns.ts';

/** A pair of dials, and where its picture begins on the sheet. */
interface Cell {
  readonly pix: number;
  readonly sem: number;
  readonly x: number;
  readonly y: number;
}

/** What all cells share of a section. */
interface Shared {
  readonly latents: Planar;
  /** By the entry of an evaluation plan that each stands for. */
  readonly residuals: ReadonlyMap<number, Planar>;
  readonly resampled: Resampled;
}

/**
 * @param params its dials are not used; what is transparent is white, and metadata has no place on a sheet
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
  // The larger of what it holds.
  const { restored } = geometry;
  const held = layout.width * layout.height > restored.width * restored.height ? layout : restored;
  const { sheet, evaluations } = await largeImages.take(held, context.signal, () =>
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
  const sheet = new Samples(layout);
  sheet.data.fill(255);
  drawLabels(sheet, sweep, layout, geometry.output.height);
  const cells = sweep.sem.flatMap((sem, row) =>
    sweep.pix.map((pix, column) => ({ pix, sem, ...layout.cell(column, row) })),
  );
  let evaluations: Evaluations = 0;
  for (const section of sectionRuns(run)) {
    evaluations = await paintSection(sheet, cells, section);
  }
  if (!input.alpha) return { sheet, evaluations };
  for (const { x, y } of cells) {
    await layOnWhite(sheet, { x, y, ...geometry.output }, input.alpha, control);
  }
  return { sheet, evaluations };
}

function drawLabels(
  sheet: Samples,
  sweep: Sweep,
  { dot, cell }: SheetLayout,
  height: number,
): void {
  for (const [column, pix] of sweep.pix.entries()) {
    drawLabel(sheet, `pix ${pix}`, { x: cell(column, 0).x, y: 4 * dot }, dot);
  }
  for (const [row, sem] of sweep.sem.entries()) {
    const middle = cell(0, row).y + Math.floor(height / 2);
    drawLabel(sheet, `sem ${sem}`, { x: 4 * dot, y: middle }, dot);
  }
}

/**
 * Fills one section of all cells.
 * @returns how many evaluations the UNet had to run
 */
async function paintSection(
  sheet: Samples,
  cells: readonly Cell[],
  { section, part: run }: SectionRun,
): Promise<Evaluations> {
  const { input, geometry, control } = run;
  const resampled = new Resampled(input.rgb, geometry.extent, section.window);
  const latents = await control.stage('encode_latents', () => keptLatents(resampled, run));
  const semantic = [
    ...new Set(cells.flatMap(({ pix, sem }) => planEvaluations(pix, sem).semantic)),
  ];
  const { tensors, evaluations } = await control.stage('predict_residual', () =>
    keptResiduals(latents, semantic, run),
  );
  const residuals = new Map(semantic.map((which, i) => [which, tensors[i] as Planar]));
  const weights = stageWeights(geometry, evaluations);
  control.setWeights({ ...weights, decode_latents: cells.length * weights.decode_latents });
  for (const [index, cell] of cells.entries()) {
    const part = { index, count: cells.length };
    // One stage for all of a cell, colour fix included, so that progress is that of the sheet.
    await control.stage(
      'decode_latents',
      () => restoreCell(sheet, cell, section, run, { latents, residuals, resampled }),
      part,
    );
  }
  for (const planes of [latents, ...tensors]) planes.release();
  return evaluations;
}

const moved = (region: Region, { x, y }: { x: number; y: number }): Region => ({
  ...region,
  x: x + region.x,
  y: y + region.y,
});

/** Fills a section of the cell of one pair of dials. */
async function restoreCell(
  sheet: Samples,
  cell: Cell,
  section: Section,
  run: Run,
  { latents, residuals, resampled }: Shared,
): Promise<void> {
  const { model, control } = run;
  const { pix, sem } = cell;
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
    epsilon.release();
  }
  const { window, visible, reduced, place } = section;
  const cut = { visible, reduced: moved(reduced, cell), place: moved(place, cell) };
  const reduction = prepareReduction(sheet, window, cut, control);
  const colors = prepareColorFix(reduction.restored, resampled, run);
  await decodeLatents(restored, colors.decoded, model, control);
  restored.release();
  await colors.finish();
  await reduction.finish();
}

/** As a JPEG of the same result is: the colours of what is transparent are made up. */
async function layOnWhite(
  sheet: Samples,
  place: Region,
  alpha: Planar,
  control: RunControl,
): Promise<void> {
  const mask = new Resampled(alpha, place);
  for (const { y, height } of bandsOf(place)) {
    const opacity = new Float32Array(height * place.width);
    mask.readClipped({ y, x: 0, height, width: place.width }, opacity);
    sheet.fade(255, { ...place, y: place.y + y, height }, opacity);
    await control.breathe();
  }
}
