/** The bundle that ships with the service: same numbers as ONNX Runtime in Python, no seams. */
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import type { PixelSize } from '../../../src/jobs/output-size.ts';
import { type ColorFix, colorFixes } from '../../../src/jobs/params.ts';
import { combine, subtractResidual } from '../../../src/pipeline/combine.ts';
import { bundleFiles, type Manifest } from '../../../src/pipeline/manifest.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { Resampled } from '../../../src/pipeline/resample.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { GraphSession } from '../../../src/pipeline/session.ts';
import {
  bytesOf,
  difference,
  embeddedBundle,
  type FixtureArray,
  floats,
  largest,
  photoPath,
  planar,
  readFixture,
} from './fixtures.ts';
import { changedBundle, loadOnCpu, pixelsOf, run } from './run.ts';

interface Dials {
  pix: number;
  sem: number;
  combined?: FixtureArray;
  decoded?: FixtureArray;
  superRes: Partial<Record<ColorFix, FixtureArray>>;
}
interface Case {
  name: string;
  lowRes: FixtureArray;
  paddedWidth: number;
  paddedHeight: number;
  resampled?: FixtureArray;
  latents: FixtureArray;
  epsPix: FixtureArray;
  epsPisa: FixtureArray;
  dials: Dials[];
}
const fixture = readFixture<{ files: Record<string, string>; cases: Case[] }>('pipeline.json');

let model: Model;
beforeAll(async () => {
  model = await loadOnCpu(embeddedBundle);
});
afterAll(() => model.dispose());

const png = (array: FixtureArray): Promise<Buffer> => {
  const [height = 0, width = 0] = array.shape;
  return sharp(bytesOf(array), { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
};

const resized = (input: Planar, { width, height }: PixelSize): Planar => {
  const output = new Planar(3, height, width);
  new Resampled(input, output).readClipped({ y: 0, x: 0, height, width }, output.data);
  return output;
};

const relative = (values: Float32Array, wanted: FixtureArray): number =>
  difference(values, floats(wanted)).max / Math.max(largest(floats(wanted)), 1e-3);

it('its merged graphs give what its gated one does, which a CPU does not load', async () => {
  const loads = vi.spyOn(GraphSession, 'open');
  onTestFinished(() => loads.mockRestore());
  const residualsOf = async (bundleDir: string) => {
    loads.mockClear();
    const loaded = await loadOnCpu(bundleDir);
    onTestFinished(() => loaded.dispose());
    const size = { height: 16, width: 24 };
    const latents = Float32Array.from({ length: 16 * 16 * 24 }, (_, i) => Math.sin(i));
    const residuals = new Float32Array(2 * latents.length);
    await loaded.predict(latents, [1, 0], size, residuals);
    const files = loads.mock.calls.map(([{ file }]) => path.basename(file));
    return { residuals, unets: files.filter((file) => file.startsWith('unet')) };
  };
  const merged = await residualsOf(embeddedBundle);
  const gated = await residualsOf(
    await changedBundle(embeddedBundle, ({ graphs }) => delete graphs.unet.merged),
  );
  expect([merged.unets, gated.unets]).toEqual([['unet-pix.onnx', 'unet-pisa.onnx'], ['unet.onnx']]);
  expect(difference(merged.residuals, gated.residuals).max).toBeLessThan(1e-4);
  const half = merged.residuals.length / 2;
  const [pisa, pix] = [merged.residuals.subarray(0, half), merged.residuals.subarray(half)];
  expect(difference(pisa, pix).max).toBeGreaterThan(1e-2);
});

describe('parity with Python', () => {
  it('the fixture is of this bundle (else: make -C python fixtures)', () => {
    const file = path.join(embeddedBundle, 'manifest.json');
    const files = bundleFiles(JSON.parse(readFileSync(file, 'utf8')) as Manifest);
    expect(fixture.files).toEqual(Object.fromEntries(files.map((one) => [one.file, one.sha256])));
  });

  for (const one of fixture.cases) {
    it(`${one.name}: resampled, latents, ε, combined and decoded`, async () => {
      const { downscale } = model.manifest.latents;
      const size = { height: one.paddedHeight / downscale, width: one.paddedWidth / downscale };
      const [height = 0, width = 0] = one.lowRes.shape;
      const lowRes = planar({ ...one.lowRes, shape: [3, height, width] });
      const interleaved = bytesOf(one.lowRes);
      for (let i = 0; i < interleaved.length; i++) {
        lowRes.data[(i % 3) * height * width + Math.floor(i / 3)] =
          (interleaved[i] as number) / 255;
      }
      const output = { width: 4 * width, height: 4 * height };
      const resampled = new Resampled(lowRes, output);
      if (one.resampled) {
        const values = new Float32Array(3 * output.width * output.height);
        resampled.read({ y: 0, x: 0, ...output }, values);
        expect(relative(values, one.resampled)).toBeLessThan(1e-5);
      }

      const padded = { height: one.paddedHeight, width: one.paddedWidth };
      const pixels = new Float32Array(3 * padded.height * padded.width);
      resampled.readClipped({ y: 0, x: 0, ...padded }, pixels);
      const latents = planar(one.latents);
      await model.encodeLatents(
        pixels.map((value) => 2 * value - 1),
        size,
        latents.data,
      );
      expect(relative(latents.data, one.latents)).toBeLessThan(1e-4);

      const length = latents.data.length;
      const residuals = new Float32Array(2 * length);
      await model.predict(latents.data, [0, 1], size, residuals);
      const [epsPix, epsPisa] = [residuals.subarray(0, length), residuals.subarray(length)];
      expect(relative(epsPix, one.epsPix)).toBeLessThan(1e-4);
      expect(relative(epsPisa, one.epsPisa)).toBeLessThan(1e-4);

      for (const { pix, sem, combined, decoded } of one.dials) {
        if (!combined || !decoded) continue;
        const restored = planar(one.latents);
        const residual = planar(one.latents);
        combine(epsPix, epsPisa, pix, sem, residual.data);
        await subtractResidual(restored, residual, new RunControl());
        expect(relative(restored.data, combined)).toBeLessThan(1e-4);
        const superRes = new Float32Array(pixels.length);
        await model.decodeLatents(restored.data, size, superRes);
        expect(relative(superRes, decoded)).toBeLessThan(1e-4);
      }
    });

    it.each(one.dials)(
      `${one.name}: 8-bit result at ($pix, $sem)`,
      async ({ pix, sem, superRes }) => {
        const lowRes = await png(one.lowRes);
        for (const colorfix of colorFixes) {
          const wanted = superRes[colorfix];
          if (!wanted) continue;
          const { image } = await run(lowRes, model, { pix, sem, colorfix });
          const { data } = await pixelsOf(image);
          expect(difference(data, bytesOf(wanted)).max).toBeLessThanOrEqual(1);
        }
      },
    );
  }
});

it.each([2, 3])(
  'a sharp photo at scale %d comes closer to the original than bicubic',
  async (scale) => {
    const side = 96;
    const read = (image: Uint8Array) =>
      sharp(image)
        .resize({ width: side, height: side, fit: 'fill', kernel: 'cubic' })
        .png()
        .toBuffer();
    const original = await pixelsOf(await read(readFileSync(photoPath('cat-128.jpg'))));
    const planes = new Planar(3, side, side);
    for (let i = 0; i < planes.data.length; i++) {
      planes.data[i] = (original.data[(i % side ** 2) * 3 + Math.floor(i / side ** 2)] ?? 0) / 255;
    }
    const small = { width: side / scale, height: side / scale };
    const low = resized(planes, small);
    const levels = Uint8Array.from({ length: low.data.length }, (_, i) =>
      Math.round(
        255 *
          Math.min(1, Math.max(0, low.data[(i % 3) * small.width ** 2 + Math.floor(i / 3)] ?? 0)),
      ),
    );
    const lowRes = await sharp(levels, { raw: { ...small, channels: 3 } })
      .png()
      .toBuffer();
    const bicubic = difference(resized(low, planes).data, planes.data).psnr;
    const { image } = await run(lowRes, model, { pix: 1, sem: 0, scale });
    const ours = difference((await pixelsOf(image)).data, original.data, 255).psnr;
    expect(ours).toBeGreaterThan(bicubic + 0.3);
  },
);

it('noise of its own in each channel gets weaker, however high `sem` is', async () => {
  const side = 64;
  const random = createHash('shake256', { outputLength: 3 * side ** 2 }).digest();
  const noisy = random.map((byte) => 112 + byte / 8);
  const lowRes = await sharp(noisy, { raw: { width: side, height: side, channels: 3 } })
    .png()
    .toBuffer();
  const lumaDeviation = async (pix: number, sem: number) => {
    const { image } = await run(lowRes, model, { pix, sem });
    const { channels } = await sharp(image).greyscale().stats();
    return channels[0]?.stdev ?? Number.NaN;
  };
  const before = await lumaDeviation(0, 0);
  expect(before).toBeGreaterThan(3);
  for (const [pix, sem] of [
    [1, 0],
    [1, 1],
    [1, 1.5],
  ] as const) {
    expect(await lumaDeviation(pix, sem)).toBeLessThan(0.8 * before);
  }
});

describe('tiles', () => {
  it('a photo tiled equals the photo untiled', async () => {
    const tiled = await loadOnCpu(
      await changedBundle(embeddedBundle, ({ graphs, multipleOf, latents }) => {
        const step = multipleOf / latents.downscale;
        for (const graph of Object.values(graphs)) {
          graph.tileLatents = Math.ceil((graph.overlapLatents + 32) / step) * step;
        }
      }),
    );
    const lowRes = readFileSync(photoPath('coffee-150x100.jpg'));
    const pixels = async (of: Model, pix: number, sem: number) =>
      (await pixelsOf((await run(lowRes, of, { pix, sem, scale: 3 })).image)).data;
    const whole = await loadOnCpu(
      await changedBundle(embeddedBundle, ({ graphs }) => {
        for (const graph of Object.values(graphs)) graph.tileLatents = 512;
      }),
    );
    const encoderAndDecoder = difference(await pixels(tiled, 0, 0), await pixels(whole, 0, 0));
    expect(encoderAndDecoder.max).toBeLessThanOrEqual(1);
    const everything = difference(await pixels(tiled, 1, 1), await pixels(whole, 1, 1), 255);
    expect(everything.psnr).toBeGreaterThan(50);
  });

  it('warms up', async () => {
    await expect(model.warmUp()).resolves.toBeUndefined();
  });
});
