/**
 * Stages 4 and 5: the UNet's residual of every tile, combined by Eq. 8 and blended. Combining is linear,
 * so it happens per tile and one accumulator suffices, unless ε_pix and ε_PiSA are to be kept apart.
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
 * Runs the UNet on every tile and blends what `ofTile` makes of its residuals.
 * @param latents [C,h,w] scaled
 * @param semantic one entry per evaluation: 0 → ε_pix, 1 → ε_PiSA
 * @param ofTile from the residuals [n,C,t,t] of a tile to `outputs` arrays [C,t,t]
 * @returns `outputs` arrays [C,h,w]
 */
async function blendTiles(
  latents: Planar,
  semantic: readonly number[],
  model: Model,
  control: RunControl,
  outputs: number,
  ofTile: (residuals: Float32Array, region: Region) => readonly Float32Array[],
): Promise<Planar[]> {
  const { channels, height, width } = latents;
  const tiles = planTiles(latents, model.manifest.graphs.unet, model.tilePolicy);
  const rowWeights = normalizedAxisWeights(tiles.rows, height);
  const columnWeights = normalizedAxisWeights(tiles.columns, width);
  const size = { height: tiles.tileHeight, width: tiles.tileWidth };
  const input = new Float32Array(channels * size.height * size.width);
  const residuals = new Float32Array(semantic.length * input.length);
  const blended = Array.from({ length: outputs }, () => new Planar(channels, height, width));
  for (const [i, tile] of tiles.tiles.entries()) {
    readRegion(latents, tile.region, input);
    await model.predict(input, semantic, size, residuals);
    const values = ofTile(residuals, tile.region);
    const [rows, columns] = [rowWeights[tile.row], columnWeights[tile.column]];
    for (const [k, target] of blended.entries()) {
      const epsilon = values[k];
      if (rows && columns && epsilon) addBlended(target, tile, epsilon, rows, columns);
    }
    control.advanceTo((i + 1) / tiles.tiles.length);
    await control.yield();
  }
  return blended;
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
  const [residual] = await blendTiles(latents, plan.semantic, model, control, 1, (tile, region) => [
    combineTile(tile, plan, {
      lambdaPix: lambdaOf(dials.lambdaPix, region, latents.width),
      lambdaSem: lambdaOf(dials.lambdaSem, region, latents.width),
    }),
  ]);
  return residual as Planar;
}

/**
 * The residuals as they are, for whoever keeps them to try other dials later.
 * @param latents [C,h,w] scaled
 * @param semantic at least one entry: 0 → ε_pix, 1 → ε_PiSA
 * @returns [C,h,w] for each entry
 */
export async function predictResidualsApart(
  latents: Planar,
  semantic: readonly number[],
  model: Model,
  control: RunControl,
): Promise<Planar[]> {
  const apart = (tiles: Float32Array) => {
    const length = tiles.length / semantic.length;
    return semantic.map((_, i) => tiles.subarray(i * length, (i + 1) * length));
  };
  return blendTiles(latents, semantic, model, control, semantic.length, apart);
}
