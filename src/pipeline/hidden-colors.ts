/**
 * Colours where nothing is seen. Files store any colour, mostly black, where they are fully transparent; the resampler
 * and the model look across the edge of what is visible and would draw a fringe of it there.
 */
import { bandsOf } from './bands.ts';
import type { Planar } from './planar.ts';
import type { RunControl } from './run-control.ts';

/**
 * The least alpha whose colour counts, in [0,1]; float32, as alpha is. Programs that hold pixels premultiplied in 8 bits
 * (canvas, Pillow, sharp) round a colour to steps of 255 levels at alpha 1, of 36 at 7. Another colour there shows by 7
 * levels at most; spread into the opaque edge the wrong one shows by far more.
 */
export const leastVisible = Math.fround(8 / 255);

/** No visible pixel found yet. */
const nowhere = 65_535;

/** Chamfer weights, 3 a step and 4 a diagonal one (Borgefors 1986): what is taken for nearest is at most 12 % farther. */
const neighbours = [
  { dx: -1, dy: 0, cost: 3 },
  { dx: -1, dy: -1, cost: 4 },
  { dx: 0, dy: -1, cost: 3 },
  { dx: 1, dy: -1, cost: 4 },
] as const;

/**
 * Gives every pixel with alpha below `leastVisible` the colour of the nearest other one, in two sweeps. What is visible is
 * not touched, nor is a picture in which nothing is, nor what is farther than 21,844 pixels from anything visible.
 * @param rgb [3,H,W]; changed in place
 * @param alpha [1,H,W] in [0,1]
 */
export async function fillHiddenColors(
  rgb: Planar,
  alpha: Planar,
  control: RunControl,
): Promise<void> {
  const distances = new Uint16Array(alpha.data.length);
  let hidden = false;
  for (const { y, height: rows } of bandsOf(rgb)) {
    for (let i = y * rgb.width; i < (y + rows) * rgb.width; i++) {
      if ((alpha.data[i] as number) >= leastVisible) continue;
      distances[i] = nowhere;
      hidden = true;
    }
    await control.breathe();
  }
  if (!hidden) return;
  for (const direction of [1, -1] as const) {
    for (const { y: from, height: rows } of bandsOf(rgb)) {
      for (let row = from; row < from + rows; row++) {
        sweepRow(rgb, distances, direction === 1 ? row : rgb.height - 1 - row, direction);
      }
      await control.breathe();
    }
  }
}

/**
 * One row of a sweep: looks back at the neighbours that the sweep has passed.
 * @param distances [H,W] to the nearest visible pixel found so far, whose colour the pixel has
 * @param direction 1: down and to the right; −1: up and to the left
 */
function sweepRow(rgb: Planar, distances: Uint16Array, y: number, direction: 1 | -1): void {
  const { width, height, data } = rgb;
  const pixels = width * height;
  for (let i = 0; i < width; i++) {
    const x = direction === 1 ? i : width - 1 - i;
    const at = y * width + x;
    let nearest = distances[at] as number;
    if (nearest === 0) continue;
    let from = at;
    for (const { dx, dy, cost } of neighbours) {
      const nx = x + direction * dx;
      const ny = y + direction * dy;
      if (nx < 0 || nx >= width || ny < 0 || ny >= height) continue;
      const distance = (distances[ny * width + nx] as number) + cost;
      if (distance >= nearest) continue;
      nearest = distance;
      from = ny * width + nx;
    }
    if (from === at) continue;
    distances[at] = nearest;
    data[at] = data[from] as number;
    data[pixels + at] = data[pixels + from] as number;
    data[2 * pixels + at] = data[2 * pixels + from] as number;
  }
}
