/**
 * Stages 4 and 5: the UNet's residual of every tile, combined by Eq. 8 and blended. Combining is linear,
 * so it happens per tile and one accumulator suffices; whoever wants to keep ε_pix and ε_PiSA apart (to
 * try other dials later) calls `predictResidual` once with `[0]` and once with `[1]`.
 */
import { addBlended, normalizedAxisWeights } from './blend.ts';
import { combine, type EvaluationPlan, type Lambda } from './combine.ts';
import type { Model } from './model.ts';
import { Planar, type Region, readRegion } from './planar.ts';
import type { RunControl } from './run-control.ts';
import { planTiles } from './tiles.ts';

export interface Dials {
  readonly lambdaPix: Lambda;
  readonly lambdaSem: Lambda;
}

/** The part of a map [h,w] that a tile covers; a number stays itself. */
function lambdaOf(lambda: Lambda, region: Region, width: number): Lambda {
  if (typeof lambda === 'number') return lambda;
  const tile = new Float32Array(region.height * region.width);
  for (let row = 0; row < region.height; row++) {
    const from = (region.y + row) * width + region.x;
    tile.set(lambda.subarray(from, from + region.width), row * region.width);
  }
  return tile;
}

/** ε of one tile from the residuals [n,C,t,t] of its evaluations; in place in the first of them. */
function combineTile(residuals: Float32Array, plan: EvaluationPlan, dials: Dials): Float32Array {
  const length = residuals.length / plan.semantic.length;
  const first = residuals.subarray(0, length);
  const { lambdaPix, lambdaSem } = dials;
  if (plan.semantic.length === 2) {
    return combine(first, residuals.subarray(length), lambdaPix, lambdaSem, first);
  }
  // One evaluation: λ_pix·ε_pix where λ_sem = 0, else λ·ε_PiSA where both are λ. Either way ε = λ_pix·first.
  return combine(first, first, lambdaPix, 0, first);
}

/**
 * @param latents [C,h,w] scaled
 * @param plan of the same dials; at least one evaluation
 * @returns [C,h,w], ε of Eq. 8
 */
export async function predictResidual(
  latents: Planar,
  plan: EvaluationPlan,
  dials: Dials,
  model: Model,
  control: RunControl,
): Promise<Planar> {
  const { channels, height, width } = latents;
  const tiles = planTiles(latents, model.manifest.graphs.unet, model.tilePolicy);
  const rowWeights = normalizedAxisWeights(tiles.rows, height);
  const columnWeights = normalizedAxisWeights(tiles.columns, width);
  const size = { height: tiles.tileHeight, width: tiles.tileWidth };
  const input = new Float32Array(channels * size.height * size.width);
  const residuals = new Float32Array(plan.semantic.length * input.length);
  const blended = new Planar(channels, height, width);
  for (const [i, tile] of tiles.tiles.entries()) {
    readRegion(latents, tile.region, input);
    await model.predict(input, plan.semantic, size, residuals);
    const tileDials = {
      lambdaPix: lambdaOf(dials.lambdaPix, tile.region, width),
      lambdaSem: lambdaOf(dials.lambdaSem, tile.region, width),
    };
    const epsilon = combineTile(residuals, plan, tileDials);
    const [rows, columns] = [rowWeights[tile.row], columnWeights[tile.column]];
    if (rows && columns) addBlended(blended, tile, epsilon, rows, columns);
    control.advanceTo((i + 1) / tiles.tiles.length);
    await control.yield();
  }
  return blended;
}
