/** Stage 4: the UNet's residuals, tile by tile, blended where tiles overlap. */
import { addBlended, normalizedAxisWeights } from './blend.ts';
import type { Model } from './model.ts';
import { Planar, readRegion } from './planar.ts';
import type { RunControl } from './run-control.ts';
import { planTiles } from './tiles.ts';

/**
 * Kept apart and not combined tile by tile: other dials may be asked for later, and whether anybody keeps them must not
 * change a pixel.
 * @param latents [C,h,w] scaled
 * @param semantic one entry per evaluation, at least one: 0 → ε_pix, 1 → ε_PiSA
 * @returns [C,h,w] for each entry
 */
export async function predictResiduals(
  latents: Planar,
  semantic: readonly number[],
  model: Model,
  control: RunControl,
): Promise<Planar[]> {
  const { channels, height, width } = latents;
  const tiles = planTiles(latents, model.manifest.graphs.unet, model.tilePolicy);
  const rowWeights = normalizedAxisWeights(tiles.rows, height);
  const columnWeights = normalizedAxisWeights(tiles.columns, width);
  const size = { height: tiles.tileHeight, width: tiles.tileWidth };
  const input = new Float32Array(channels * size.height * size.width);
  const predicted = new Float32Array(semantic.length * input.length);
  const residuals = semantic.map(() => new Planar(channels, height, width));
  for (const [i, tile] of tiles.tiles.entries()) {
    readRegion(latents, tile.region, input);
    await model.predict(input, semantic, size, predicted);
    const [rows, columns] = [rowWeights[tile.row], columnWeights[tile.column]];
    for (const [k, residual] of residuals.entries()) {
      const epsilon = predicted.subarray(k * input.length, (k + 1) * input.length);
      if (rows && columns) addBlended(residual, tile, epsilon, rows, columns);
    }
    control.advanceTo((i + 1) / tiles.tiles.length);
    await control.yield();
  }
  return residuals;
}
