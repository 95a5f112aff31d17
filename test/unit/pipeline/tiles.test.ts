import { describe, expect, it } from 'vitest';
import { normalizedAxisWeights } from '../../../src/pipeline/blend.ts';
import { Planar, readRegion, writeRegion } from '../../../src/pipeline/planar.ts';
import { planAxis, planTiles } from '../../../src/pipeline/tiles.ts';
import { difference } from './fixtures.ts';

const flexible = (step: number) => ({ step, fixed: false, smallestImage: step });

/** Every length up to 60 steps, with several tiles, overlaps and steps, tiles of fixed and of free size. */
function* axes() {
  for (const step of [1, 2, 4]) {
    for (const [tile, overlap] of [
      [4, 0],
      [4, 2],
      [8, 3],
      [12, 8],
      [16, 12],
    ] as const) {
      for (const fixed of [true, false]) {
        const policy = { step, fixed, smallestImage: step };
        const largest = tile * step;
        for (let n = 1; n <= 60; n++) yield { length: n * step, largest, overlap, policy };
      }
    }
  }
}

describe('planAxis', () => {
  it('covers every axis, in phase, with the overlap asked for', () => {
    for (const { length, largest, overlap, policy } of axes()) {
      const { tile, spans } = planAxis(length, largest, overlap, policy);
      const at = JSON.stringify({ length, largest, overlap, policy, tile, spans });
      expect(tile, at).toBeLessThanOrEqual(largest);
      expect(tile % policy.step, at).toBe(0);
      let covered = 0;
      for (const [i, span] of spans.entries()) {
        expect(span.start % policy.step, at).toBe(0);
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
    expect(planAxis(12, 16, 8, flexible(4))).toEqual({
      tile: 12,
      spans: [{ start: 0, ownStart: 0, ownEnd: 12 }],
    });
  });

  it('shrinks the tile rather than overlap more than needed', () => {
    // 128 would need 5 tiles with strides of 112 and a last one of 64; five tiles of 116 also cover 512.
    const { tile, spans } = planAxis(512, 128, 16, flexible(4));
    expect([tile, spans.length]).toEqual([116, 5]);
    const policy = { ...flexible(4), fixed: true };
    expect(planAxis(512, 128, 16, policy).tile).toBe(128);
  });

  it('gives blend weights that sum to 1 at every cell', () => {
    for (const { length, largest, overlap, policy } of axes()) {
      const plan = planAxis(length, largest, overlap, policy);
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
});
