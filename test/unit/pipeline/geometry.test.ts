/** Sizes: the output as asked for, and what is restored for it at the scale that the model was trained for. */
import { expect, it } from 'vitest';
import { planGeometry } from '../../../src/pipeline/geometry.ts';
import { loadManifest } from '../../../src/pipeline/manifest.ts';
import { tilePolicyOf } from '../../../src/pipeline/model.ts';
import { bundlePath } from './fixtures.ts';

const manifest = await loadManifest(bundlePath('identity'));
const model = { manifest, tilePolicy: tilePolicyOf(manifest, { executionProvider: 'cpu' }) };
const plan = (width: number, height: number, scale: number, maxPixels = 67_108_864) =>
  planGeometry({ width, height }, scale, model, maxPixels);

it.each([1, 2, 3.6, 4])('a photo at scale %d is restored at four times its size', (scale) => {
  const { output, restored, latents } = plan(101, 50, scale);
  expect(output).toEqual({ width: Math.round(101 * scale), height: 50 * scale });
  expect(restored).toEqual({ width: 404, height: 200 });
  expect(latents.width * manifest.latents.downscale).toBeGreaterThanOrEqual(404);
});

it('a photo too large for that is restored at the largest scale that fits', () => {
  const { output, restored } = plan(4000, 3000, 2);
  expect(output).toEqual({ width: 8000, height: 6000 });
  expect(restored.width / 4000).toBeCloseTo(Math.sqrt(67_108_864 / 12e6), 3);
  expect(restored.width * restored.height).toBeLessThan(1.001 * 67_108_864);
  expect(plan(4000, 3000, 2.1).restored.width).toBe(restored.width);
});

it('a scale just below is not resampled by next to nothing', () => {
  // What the API advises for a photo of 12 megapixels.
  const large = plan(4032, 3024, 2.34);
  expect(large.restored).toEqual(large.output);
  const small = plan(100, 100, 3.9);
  expect(small.restored).toEqual(small.output);
});

it('an image too wide to be reduced in time is restored at its own scale', () => {
  expect(plan(8192, 10, 1).restored.width).toBe(32_768);
  const wide = plan(8200, 10, 1);
  expect(wide.restored).toEqual(wide.output);
});

it('an image so narrow that four times its size would be mostly padding is restored at its own scale', () => {
  const { output, restored } = plan(1, 3000, 1, 20_000);
  expect(restored).toEqual(output);
});
