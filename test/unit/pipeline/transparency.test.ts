/** Transparent pictures: the mask lies on its picture, and what is hidden does not show at its edge. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { prepareColorFix } from '../../../src/pipeline/color-fix/color-fix.ts';
import { decodePhoto } from '../../../src/pipeline/decode-photo.ts';
import { fillHiddenColors, leastVisible } from '../../../src/pipeline/hidden-colors.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { Resampled } from '../../../src/pipeline/resample.ts';
import type { Run } from '../../../src/pipeline/run.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { Samples } from '../../../src/pipeline/samples.ts';
import { bundlePath, difference } from './fixtures.ts';
import { loadOnCpu, type Pixels, picture, pixelsOf, run } from './run.ts';

let identity: Model;
beforeAll(async () => {
  identity = await loadOnCpu(bundlePath('identity'));
});
afterAll(() => identity.dispose());

const asStored = { pix: 0, sem: 0, quality: 95 } as const;

const channelOf = ({ data, channels }: Pixels, channel: number): Uint8Array =>
  data.filter((_, i) => i % channels === channel);

/** RGBA pixels → PNG. */
function png(
  width: number,
  height: number,
  pixel: (x: number, y: number) => number[],
): Promise<Buffer> {
  const samples = new Uint8ClampedArray(4 * width * height);
  for (let i = 0; i < width * height; i++) {
    samples.set(pixel(i % width, Math.floor(i / width)), 4 * i);
  }
  return sharp(samples, { raw: { width, height, channels: 4 } })
    .png()
    .toBuffer();
}

describe('the mask', () => {
  /** The centre of what rises above the level 16, in pixels of the input. */
  function centroid(plane: Uint8Array, width: number, scale: number): [number, number] {
    let [sum, sumX, sumY] = [0, 0, 0];
    for (const [i, level] of plane.entries()) {
      sum += level - 16;
      sumX += (level - 16) * ((i % width) + 0.5);
      sumY += (level - 16) * (Math.floor(i / width) + 0.5);
    }
    return [sumX / sum / scale, sumY / sum / scale];
  }

  it.each([1, 1.1, 1.5, 2, 2.37, 3, 4])(
    'lies where its picture does at scale %d',
    async (scale) => {
      const [atX, atY] = [15.3, 12.6];
      const blob = await png(30, 26, (x, y) => {
        const level = 16 + 200 * Math.exp(-((x + 0.5 - atX) ** 2 + (y + 0.5 - atY) ** 2) / 12.5);
        return [level, level, level, level];
      });
      const pixels = await pixelsOf((await run(blob, identity, { ...asStored, scale })).image);
      const [red, alpha] = [channelOf(pixels, 0), channelOf(pixels, 3)];
      const [redX, redY] = centroid(red, pixels.width, scale);
      const [alphaX, alphaY] = centroid(alpha, pixels.width, scale);
      expect(Math.abs(alphaX - redX)).toBeLessThan(0.05 / scale);
      expect(Math.abs(alphaY - redY)).toBeLessThan(0.05 / scale);
      expect(Math.hypot(alphaX - atX, alphaY - atY)).toBeLessThan(0.25);
      expect(difference(alpha, red).max).toBeLessThanOrEqual(1);
    },
  );

  it.each(['png', 'webp', 'avif'] as const)('comes back in a %s, bicubic', async (format) => {
    const lowRes = await picture(40, 30, 4);
    const { image } = await run(lowRes, identity, { ...asStored, format });
    const stored = new Planar(1, 30, 40);
    stored.data.set(channelOf(await pixelsOf(lowRes), 3));
    const wanted = new Float32Array(160 * 120);
    const [width, height] = [160, 120];
    new Resampled(stored, { width, height }).read({ y: 0, x: 0, height, width }, wanted);
    const tolerance = format === 'avif' ? 8 : 0.501;
    const alpha = channelOf(await pixelsOf(image), 3);
    expect(difference(alpha, wanted).max).toBeLessThanOrEqual(tolerance);
  });
});

describe('hidden colours', () => {
  const [width, height] = [61, 47];
  const pixels = width * height;

  /** A few visible spots of known colours among hidden black, of which a third has a trace of alpha. */
  function spots(isVisible: (i: number) => boolean) {
    const [rgb, alpha] = [new Planar(3, height, width), new Planar(1, height, width)];
    for (let i = 0; i < pixels; i++) {
      if (!isVisible(i)) {
        alpha.data[i] = i % 3 === 0 ? 7 / 255 : 0;
        continue;
      }
      alpha.data[i] = i % 2 === 0 ? 1 : leastVisible;
      // Red says where the colour is from; the other planes that they went along.
      for (let c = 0; c < 3; c++) rgb.data[c * pixels + i] = i + c;
    }
    return { rgb, alpha };
  }

  it('are those of the nearest visible pixel, and visible ones stay', async () => {
    const { rgb, alpha } = spots((i) => (i * 7919) % 389 === 5);
    const isVisible = (i: number) => (alpha.data[i] as number) >= leastVisible;
    const visible = [...alpha.data.keys()].filter(isVisible);
    expect(visible.length).toBeGreaterThan(5);
    const before = rgb.data.slice();
    await fillHiddenColors(rgb, alpha, new RunControl());
    const distance = (a: number, b: number) =>
      Math.hypot((a % width) - (b % width), Math.floor(a / width) - Math.floor(b / width));
    for (let i = 0; i < pixels; i++) {
      const from = rgb.data[i] as number;
      expect([rgb.data[pixels + i], rgb.data[2 * pixels + i]]).toEqual([from + 1, from + 2]);
      if (isVisible(i)) expect(from).toBe(before[i]);
      const nearest = Math.min(...visible.map((one) => distance(i, one)));
      expect(visible).toContain(from);
      expect(distance(i, from)).toBeLessThanOrEqual(1.12 * nearest);
    }
  });

  it('stay what they are where nothing is visible, or all is', async () => {
    for (const all of [true, false]) {
      const { rgb, alpha } = spots(() => all);
      for (const i of rgb.data.keys()) rgb.data[i] = i;
      const before = rgb.data.slice();
      await fillHiddenColors(rgb, alpha, new RunControl());
      expect(rgb.data).toEqual(before);
    }
  });

  /** White, its edge as soft as a pixel, on transparent black. */
  const disc = () =>
    png(40, 40, (x, y) => {
      const cover = Math.min(1, Math.max(0, 12.5 - Math.hypot(x - 19.3, y - 20.1)));
      return cover > 0 ? [255, 255, 255, 255 * cover] : [0, 0, 0, 0];
    });

  it('leave no dark fringe round a white disc on white', async () => {
    for (const format of ['png', 'jpeg'] as const) {
      const { image } = await run(await disc(), identity, { ...asStored, format });
      const onWhite = await sharp(image).flatten({ background: 'white' }).raw().toBuffer();
      expect(Math.min(...onWhite), format).toBeGreaterThan(250);
    }
  });

  /**
   * A disc of one colour with a rim of alpha 1 to 7, as a program leaves it that holds pixels premultiplied in 8 bits: the
   * colour comes back rounded by the more the smaller its alpha is.
   */
  const logo = [20, 90, 200] as const;
  const premultiplied = () =>
    png(40, 40, (x, y) => {
      const distance = Math.hypot(x - 19.3, y - 20.1);
      const alpha = distance < 12 ? 255 : distance < 13 ? 1 + ((3 * x + y) % 7) : 0;
      const stored = logo.map((level) => Math.round((level * alpha) / 255));
      return [...stored.map((level) => (alpha ? Math.round((level * 255) / alpha) : 0)), alpha];
    });

  it.each([8, 16])(
    'of rounding do not spread from %d-bit pixels that hardly show',
    async (bits) => {
      const deep = sharp(await premultiplied()).toColourspace(bits === 16 ? 'rgb16' : 'srgb');
      const lowRes = await deep.png().toBuffer();
      expect((await sharp(lowRes).metadata()).depth).toBe(bits === 16 ? 'ushort' : 'uchar');
      const { data } = await pixelsOf((await run(lowRes, identity, asStored)).image);
      let worst = 0;
      for (let i = 0; i < data.length; i += 4) {
        const alpha = (data[i + 3] as number) / 255;
        for (const [c, level] of logo.entries()) {
          worst = Math.max(worst, alpha * Math.abs((data[i + c] as number) - level));
        }
      }
      expect(worst).toBeLessThan(3);
    },
  );

  it('do not count in the statistics of a colour fix', async () => {
    const [size, half] = [{ width: 16, height: 6 }, 8];
    /** The visible right half of what the fix makes of a decoded picture, `hidden` in the left one. */
    async function fixed(hidden: number): Promise<number[]> {
      const [rgb, alpha] = [new Planar(3, 6, 16), new Planar(1, 6, 16)];
      for (const i of rgb.data.keys()) rgb.data[i] = i % 16 < half ? hidden : 0.3 + 0.01 * (i % 5);
      for (const i of alpha.data.keys()) alpha.data[i] = i % 16 < half ? 7 / 255 : 1;
      const output = new Samples(size, 4);
      const colors = prepareColorFix(output, new Resampled(rgb, size), {
        colorfix: 'adain',
        input: { isGrey: false, alpha },
        control: new RunControl(),
      } as Run);
      for (let y = 0; y < size.height; y++) {
        const values = Float32Array.from({ length: 3 * 16 }, (_, i) =>
          i % 16 < half ? 0.9 - hidden : 0.5 + 0.02 * ((i + y) % 5),
        );
        colors.decoded.put(y, 0, { values, start: 0, stride: 16, length: 16 });
      }
      await colors.finish();
      return [...output.data].filter((_, i) => i % 64 >= 4 * half && i % 4 !== 3);
    }
    const levels = await fixed(0);
    expect(await fixed(0.9)).toEqual(levels);
    const mean = levels.reduce((sum, level) => sum + level, 0) / levels.length;
    expect(Math.abs(mean - 0.32 * 255)).toBeLessThan(0.5);
  });

  it('do not count as colours: a grey picture on transparent blue is grey', async () => {
    const blue = await png(16, 16, (x, y) => (x < 8 ? [9 * y, 9 * y, 9 * y, 255] : [0, 0, 255, 0]));
    const decoded = await decodePhoto(blue, { maxPixels: 1e6 }, new RunControl());
    expect(decoded.isGrey).toBe(true);
  });
});
