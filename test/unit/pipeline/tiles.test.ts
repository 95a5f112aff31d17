import { describe, expect, it } from 'vitest';
import { normalizedAxisWeights } from '../../../src/pipeline/blend.ts';
import { Planar, readRegion, writeRegion } from '../../../src/pipeline/planar.ts';
import { type AxisPlan, planAxis, planTiles, type TilePlan } from '../../../src/pipeline/tiles.ts';
import { difference } from './fixtures.ts';

const flexible = (step: number) => ({ step, fixed: false });
const fixed = (step: number) => ({ ...flexible(step), fixed: true });

/** Every length up to 60 steps, with several tiles, overlaps and steps. */
function* axes() {
  for (const step of [1, 2, 4]) {
    for (const [tile, overlap] of [
      [4, 0],
      [4, 2],
      [8, 3],
      [12, 8],
      [16, 12],
    ] as const) {
      for (let n = 1; n <= 60; n++) yield { length: n * step, tile: tile * step, overlap, step };
    }
  }
}

describe('planAxis', () => {
  it('covers every axis, in phase, with the overlap asked for', () => {
    for (const axis of axes()) {
      const { length, overlap, step } = axis;
      const { tile, spans } = planAxis(length, axis.tile, overlap, step);
      const at = JSON.stringify({ ...axis, tile, spans });
      expect(tile, at).toBe(Math.min(length, axis.tile));
      let covered = 0;
      for (const [i, span] of spans.entries()) {
        expect(span.start % step, at).toBe(0);
        expect(span.ownStart, at).toBe(covered);
        covered = span.ownEnd;
        const previous = spans[i - 1];
        if (!previous) continue;
        const shared = previous.start + tile - span.start;
        expect(shared, at).toBeGreaterThanOrEqual(overlap);
        // The cut leaves at least half of the overlap, rounded down, to both tiles.
        expect(span.ownStart - span.start, at).toBeGreaterThanOrEqual(Math.floor(overlap / 2));
        const rest = previous.start + tile - span.ownStart;
        expect(rest, at).toBeGreaterThanOrEqual(Math.floor(overlap / 2));
      }
      expect(covered, at).toBe(length);
      expect((spans.at(-1)?.start ?? 0) + tile, at).toBe(length);
    }
  });

  it('is one tile of the whole axis where that fits', () => {
    expect(planAxis(12, 16, 8, 4)).toEqual({
      tile: 12,
      spans: [{ start: 0, ownStart: 0, ownEnd: 12 }],
    });
  });

  it('gives blend weights that sum to 1 at every cell', () => {
    for (const { length, tile, overlap, step } of axes()) {
      const plan = planAxis(length, tile, overlap, step);
      const sums = new Float64Array(length);
      for (const [i, weights] of normalizedAxisWeights(plan, length).entries()) {
        const { start } = plan.spans[i] as { start: number };
        for (const [k, weight] of weights.entries()) {
          sums[start + k] = (sums[start + k] as number) + weight;
        }
      }
      expect(difference(sums, new Float64Array(length).fill(1)).max).toBeLessThan(1e-12);
    }
  });
});

/** Cells that the graph computes, over those of the image. */
function work(plan: TilePlan): number {
  const { tileHeight, tileWidth, rows, columns, tiles } = plan;
  const length = ({ spans }: AxisPlan) => spans.at(-1)?.ownEnd ?? 0;
  return (tiles.length * tileHeight * tileWidth) / (length(rows) * length(columns));
}

describe('planTiles', () => {
  it('puts an image together again from the own parts of its tiles', () => {
    const image = new Planar(3, 44, 68);
    for (let i = 0; i < image.data.length; i++) image.data[i] = i;
    const spec = { tileLatents: 16, overlapLatents: 6 };
    const plan = planTiles(image, spec, flexible(4));
    const copy = new Planar(3, 44, 68);
    const size = { height: plan.tileHeight, width: plan.tileWidth };
    const tile = new Float32Array(3 * size.height * size.width);
    for (const { region, own } of plan.tiles) {
      readRegion(image, region, tile);
      writeRegion(copy, own, tile, size, { ...own, y: own.y - region.y, x: own.x - region.x });
    }
    expect(plan.tiles.length).toBeGreaterThan(12);
    expect(copy.data).toEqual(image.data);
  });

  /** Of the encoder of sd-small; of the UNets of pisa-tiny and of Stable Diffusion; of small ones. */
  const specs = [
    { tileLatents: 64, overlapLatents: 20, step: 2 },
    { tileLatents: 256, overlapLatents: 32, step: 4 },
    { tileLatents: 96, overlapLatents: 32, step: 8 },
    { tileLatents: 12, overlapLatents: 3, step: 4 },
    { tileLatents: 8, overlapLatents: 0, step: 1 },
  ];

  it('never exceeds the area of a tile, covers the image, and never computes more than square tiles', () => {
    for (const { step, ...spec } of specs) {
      for (let rows = 1; rows <= 60; rows += 7) {
        for (let columns = 1; columns <= 60; columns += 3) {
          const size = { height: 2 * rows * step, width: columns * step };
          const at = JSON.stringify({ size, ...spec, step });
          const [free, square] = [flexible(step), fixed(step)].map((policy) =>
            planTiles(size, spec, policy),
          ) as [TilePlan, TilePlan];
          for (const plan of [free, square]) {
            expect(plan.tileHeight % step, at).toBe(0);
            expect(plan.tileWidth % step, at).toBe(0);
            expect(plan.tileHeight * plan.tileWidth, at).toBeLessThanOrEqual(spec.tileLatents ** 2);
            const owned = plan.tiles.reduce((sum, { own }) => sum + own.height * own.width, 0);
            expect(owned, at).toBe(size.height * size.width);
            for (const { spans, tile } of [plan.rows, plan.columns]) {
              for (const [i, { start }] of spans.entries()) {
                const shared =
                  i === 0 ? spec.overlapLatents : tile - start + (spans[i - 1]?.start ?? 0);
                expect(shared, at).toBeGreaterThanOrEqual(spec.overlapLatents);
              }
            }
          }
          expect(work(free), at).toBeLessThanOrEqual(work(square));
        }
      }
    }
  });

  it.each([
    // Whole, since the area fits, where squares would be two.
    { width: 300, height: 200, tileLatents: 256, tiles: 1, tile: [200, 300] },
    // Rows of 256 use up the area; three columns of 236 are as few as squares of 256² would need.
    { width: 640, height: 480, tileLatents: 256, tiles: 6, tile: [256, 236] },
    // 512² at scale 4. Nine squares of 192² compute 27 % more than the image; these 20, 13, 6 and 0 %.
    { width: 512, height: 512, tileLatents: 256, tiles: 6, tile: [272, 192] },
    { width: 512, height: 512, tileLatents: 320, tiles: 3, tile: [512, 192] },
    { width: 512, height: 512, tileLatents: 384, tiles: 2, tile: [512, 272] },
    { width: 512, height: 512, tileLatents: 512, tiles: 1, tile: [512, 512] },
  ])('$width × $height in tiles of $tileLatents²: $tiles of $tile', (row) => {
    const spec = { tileLatents: row.tileLatents, overlapLatents: 32 };
    const { tiles, tileHeight, tileWidth } = planTiles(row, spec, flexible(4));
    expect([tiles.length, [tileHeight, tileWidth]]).toEqual([row.tiles, row.tile]);
  });

  it('cuts images of all sizes into one shape where each shape costs tuning', () => {
    const spec = { tileLatents: 96, overlapLatents: 32 };
    for (const size of [
      { height: 104, width: 104 },
      { height: 512, width: 120 },
      { height: 200, width: 1000 },
    ]) {
      const { tileHeight, tileWidth } = planTiles(size, spec, fixed(8));
      expect([tileHeight, tileWidth]).toEqual([96, 96]);
    }
  });

  it('plans the largest and the narrowest images at once', () => {
    const startedAt = performance.now();
    const spec = { tileLatents: 256, overlapLatents: 4 };
    for (const size of [
      { height: 2048, width: 2048 },
      { height: 4, width: 1_000_000 },
    ]) {
      expect(work(planTiles(size, spec, flexible(4)))).toBeLessThan(1.1);
    }
    expect(performance.now() - startedAt).toBeLessThan(5000);
  });
});
