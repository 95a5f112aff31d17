/**
 * Whole images by the service's pipeline against plain PyTorch (diffusers + peft) with the same weights: encoder
 * and decoder in strips, the UNet in overlapping tiles, odd sizes. `python/tests/make_sd_small.py` makes the images.
 */
import { readFile } from 'node:fs/promises';
import { describe, expect, it } from 'vitest';
import { fixturePath } from './fixtures.ts';
import { loadOnCpu, type Pixels, pixelsOf, run } from './run.ts';

const fixture = (name: string) => readFile(fixturePath(`stages/plain/${name}.png`));

function psnr(a: Pixels, b: Pixels): number {
  expect([a.width, a.height, a.channels]).toEqual([b.width, b.height, b.channels]);
  let squares = 0;
  for (const [i, value] of a.data.entries()) squares += (value - (b.data[i] as number)) ** 2;
  return 10 * Math.log10((255 * 255 * a.data.length) / squares);
}

const images = [
  { name: 'default', pix: 1, sem: 1, colorfix: 'adain' },
  { name: 'adjustable', pix: 0.6, sem: 1.4, colorfix: 'wavelet' },
  { name: 'pixel-only', pix: 1, sem: 0, colorfix: 'none' },
] as const;

describe('the pipeline equals plain PyTorch', () => {
  it.each([
    ['sd-small', 50],
    ['sd-small-fp16', 40],
  ])('with %s: at least %d dB', { timeout: 180_000 }, async (bundle, least) => {
    const model = await loadOnCpu(fixturePath(`stages/${bundle}`));
    const lowRes = await fixture('low-res');
    for (const { name, ...params } of images) {
      const { image, width, height } = await run(lowRes, model, params);
      expect([width, height]).toEqual([192, 188]);
      expect(
        psnr(await pixelsOf(image), await pixelsOf(await fixture(name))),
        name,
      ).toBeGreaterThan(least);
    }
    await model.dispose();
  });

  it('which a wrong dial does not', { timeout: 180_000 }, async () => {
    const model = await loadOnCpu(fixturePath('stages/sd-small'));
    const { image } = await run(await fixture('low-res'), model, {
      pix: 1,
      sem: 0.9,
      colorfix: 'adain',
    });
    await model.dispose();
    expect(psnr(await pixelsOf(image), await pixelsOf(await fixture('default')))).toBeLessThan(40);
  });
});
