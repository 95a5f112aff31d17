/** A dial that differs over the image: every size of map fits every size of output, at a bounded price. */
import { afterEach, describe, expect, it, vi } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import type { Geometry } from '../../../src/pipeline/geometry.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { Resampled } from '../../../src/pipeline/resample.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { readStrengthMap } from '../../../src/pipeline/strength-map.ts';
import { difference } from './fixtures.ts';

const downscale = 8;
const limits = { maxPixels: 4_194_304 };

const geometryOf = (width: number, height: number): Pick<Geometry, 'restored' | 'latents'> => ({
  restored: { width, height },
  latents: { width: Math.ceil(width / downscale), height: Math.ceil(height / downscale) },
});

/** A grey PNG. */
const png = (levels: Uint8Array, width: number): Promise<Buffer> =>
  sharp(levels, { raw: { width, height: levels.length / width, channels: 1 } })
    .png()
    .toBuffer();

const read = (bytes: Uint8Array, geometry: ReturnType<typeof geometryOf>): Promise<Float32Array> =>
  readStrengthMap(bytes, 2, geometry, downscale, limits, new RunControl());

/** Horizontally, then vertically, in one step, whatever it costs; then the mean over each cell. */
function inOneStep(
  levels: Uint8Array,
  mapWidth: number,
  { restored, latents }: ReturnType<typeof geometryOf>,
) {
  const map = new Planar(1, levels.length / mapWidth, mapWidth);
  for (const [i, level] of levels.entries()) map.data[i] = level / 255;
  const [width, height] = [latents.width * downscale, latents.height * downscale];
  const stretched = new Float32Array(width * height);
  new Resampled(map, restored).readClipped({ y: 0, x: 0, height, width }, stretched);
  const cells = new Float32Array(latents.width * latents.height);
  for (const [i, value] of stretched.entries()) {
    const cell =
      Math.floor(i / width / downscale) * latents.width + Math.floor((i % width) / downscale);
    cells[cell] = (cells[cell] ?? 0) + (2 * value) / downscale ** 2;
  }
  return cells;
}

const noise = (length: number): Uint8Array =>
  Uint8Array.from({ length }, (_, i) => (i * 7919 + (i % 13) * 57) % 256);

describe('a strength map', () => {
  it('means what is stored under transparency: paint on a transparent black layer is 0 beside the paint', async () => {
    const layer = Uint8Array.from({ length: 4 * 96 * 40 }, (_, i) =>
      (i >> 2) % 96 < 48 ? 255 : 0,
    );
    const raw = { width: 96, height: 40, channels: 4 } as const;
    const geometry = geometryOf(96, 40);
    const map = await read(await sharp(layer, { raw }).png().toBuffer(), geometry);
    expect(map[0]).toBeCloseTo(2, 5);
    expect(map[geometry.latents.width - 1]).toBeCloseTo(0, 5);
  });

  it.each([
    ['smaller', 5, 4],
    ['of the same size', 96, 40],
    ['larger', 211, 133],
    ['wider and lower', 211, 7],
    ['narrower and taller', 3, 301],
    ['of one row', 500, 1],
    ['of one column', 1, 500],
  ])('%s than the output is stretched over it', async (_name, width, height) => {
    const levels = noise(width * height);
    const geometry = geometryOf(96, 40);
    const cells = await read(await png(levels, width), geometry);
    expect(difference(cells, inOneStep(levels, width, geometry)).max).toBeLessThan(1e-5);
    expect(Math.max(...cells) - Math.min(...cells)).toBeGreaterThan(0.01);
  });

  describe('costs no more than itself and a few rows of the output', () => {
    const lengths: number[] = [];
    afterEach(() => vi.unstubAllGlobals());

    it.each([
      ['one column', 1, 10_000, 16_000, 8],
      ['one row', 10_000, 1, 8, 16_000],
    ])('%s over the other axis of a long photo', async (_name, width, height, w, h) => {
      const levels = Uint8Array.from({ length: 10_000 }, (_, i) => (i < 5000 ? 0 : 255));
      const bytes = await png(levels, width);
      expect(height * width).toBe(levels.length);
      expect(bytes.length).toBeLessThan(1000);
      lengths.length = 0;
      vi.stubGlobal(
        'Float32Array',
        class extends Float32Array {
          constructor(...args: [number]) {
            super(...args);
            lengths.push(this.length);
          }
        },
      );
      const cells = await read(bytes, geometryOf(w, h));
      vi.unstubAllGlobals();
      expect(Math.max(...lengths)).toBeLessThanOrEqual(16 * Math.max(w, h));
      // Half black, half white: one cell is the mean of them, or a line of cells goes from one to the other.
      expect(cells.reduce((sum, value) => sum + value, 0) / cells.length).toBeCloseTo(1, 3);
    });
  });
});
