/** The whole pipeline on bundles whose results are known. */
import { readFileSync } from 'node:fs';
import type { Sharp } from 'sharp';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { AppError } from '../../../src/errors.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { type Progress, stages } from '../../../src/jobs/job.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { Resampled } from '../../../src/pipeline/resample.ts';
import { bundlePath, difference, photoPath } from './fixtures.ts';
import {
  changedBundle,
  loadExactIdentity,
  loadOnCpu,
  type Pixels,
  picture,
  pixelsOf,
  run,
} from './run.ts';

let identity: Model;
beforeAll(async () => {
  identity = await loadOnCpu(bundlePath('identity'));
});
afterAll(() => identity.dispose());

/** Bicubic resampling of a PNG in [0,1], interleaved: what the identity bundle is fed with. */
async function bicubic(image: Uint8Array, width: number, height: number): Promise<Float32Array> {
  const { data, ...size } = await pixelsOf(image);
  const plane = size.width * size.height;
  const input = new Planar(3, size.height, size.width);
  for (let i = 0; i < input.data.length; i++) {
    input.data[i] = (data[(i % plane) * size.channels + Math.floor(i / plane)] as number) / 255;
  }
  const planes = new Float32Array(3 * width * height);
  new Resampled(input, { width, height }).readClipped({ y: 0, x: 0, height, width }, planes);
  const result = new Float32Array(planes.length);
  for (let i = 0; i < result.length; i++) {
    result[i] = planes[(i % 3) * width * height + Math.floor(i / 3)] as number;
  }
  return result;
}

/** What the identity bundle makes of it: z_H = (1 − 0.1·λ_pix − 0.2·λ_sem)·z_L. */
function restored(resampled: Float32Array, pix: number, sem: number): Float32Array {
  const gain = 1 - 0.1 * pix - 0.2 * sem;
  return resampled.map((value) => 255 * (0.5 * gain * (2 * value - 1) + 0.5));
}

describe('Eq. 8 through the tiled pipeline', () => {
  it.each([
    { pix: 0, sem: 0, evaluations: 0 },
    { pix: 1, sem: 0, evaluations: 1 },
    { pix: 0.6, sem: 0, evaluations: 1 },
    { pix: 1, sem: 1, evaluations: 1 },
    { pix: 1.7, sem: 1.7, evaluations: 1 },
    { pix: 0, sem: 1, evaluations: 2 },
    { pix: 0.6, sem: 1.4, evaluations: 2 },
    { pix: 2, sem: 0.1, evaluations: 2 },
  ])('pix $pix, sem $sem: $evaluations evaluations', async ({ pix, sem, evaluations }) => {
    const lowRes = await picture(57, 41);
    const result = await run(lowRes, identity, { pix, sem });
    expect(result.evaluations).toBe(evaluations);
    const { data } = await pixelsOf(result.image);
    const wanted = restored(await bicubic(lowRes, 228, 164), pix, sem);
    expect(difference(data, wanted, 255).max).toBeLessThan(0.502);
  });

  it('float16 graphs give the same within their precision', async () => {
    const half = await loadOnCpu(bundlePath('identity-fp16'));
    const lowRes = await picture(57, 41);
    const { data } = await pixelsOf((await run(lowRes, half, { pix: 0.6, sem: 1.4 })).image);
    const wanted = restored(await bicubic(lowRes, 228, 164), 0.6, 1.4);
    expect(difference(data, wanted, 255).max).toBeLessThan(1);
    await half.dispose();
  });
});

describe('sizes', () => {
  it.each([
    [1, 1, 4],
    [1, 1, 1],
    [2, 3, 4],
    [31, 17, 1],
    [31, 17, 1.5],
    [33, 20, 2.37],
    [37, 53, 3.999],
    [1, 5000, 4],
    [5000, 1, 1.2],
    [3000, 2, 2],
  ])('%d × %d at scale %d is round(scale × input)', async (width, height, scale) => {
    const lowRes = await picture(width, height);
    const model = await loadExactIdentity();
    const result = await run(lowRes, model, { pix: 0, sem: 0, scale });
    const { data, ...size } = await pixelsOf(result.image);
    const [wide, high] = [Math.round(scale * width), Math.round(scale * height)];
    expect([size.width, size.height]).toEqual([wide, high]);
    expect([result.width, result.height]).toEqual([wide, high]);
    expect(result.input).toMatchObject({ width, height });
    const wanted = await bicubic(lowRes, wide, high);
    expect(
      difference(
        data,
        wanted.map((value) => 255 * value),
      ).max,
    ).toBeLessThan(0.502);
  });

  it.each([
    [31, 17, 1],
    [40, 30, 2],
    [33, 20, 2.37],
    [1, 1, 1],
    [700, 1, 1.2],
  ])(
    '%d × %d at scale %d is restored at four times, then reduced',
    async (width, height, scale) => {
      const lowRes = await picture(width, height);
      const result = await run(lowRes, identity, { pix: 1, sem: 1, scale });
      const { data, ...size } = await pixelsOf(result.image);
      const [wide, high] = [Math.round(scale * width), Math.round(scale * height)];
      expect([size.width, size.height]).toEqual([wide, high]);
      const whole = (await run(lowRes, identity, { pix: 1, sem: 1 })).image;
      const wanted = await bicubic(whole, wide, high);
      // libvips halves with a box first.
      const { psnr } = difference(
        data,
        wanted.map((value) => 255 * value),
        255,
      );
      expect(psnr).toBeGreaterThan(36);
    },
  );

  it('refuses an output beyond the pixel limit before any graph runs', async () => {
    const limits = { maxInputPixels: 10_000, maxOutputPixels: 159_999, maxRestoredPixels: 159_999 };
    const refused = run(await picture(100, 100), identity, {}, { limits });
    await expect(refused).rejects.toMatchObject({ code: 'too_many_pixels' });
    await expect(refused).rejects.toThrow(
      /400 × 400 pixels; .* at most 159999 .* A scale of 3\.99 or less fits/,
    );
  });

  it('refuses such an output before it decodes the input', async () => {
    const limits = { maxInputPixels: 10_000, maxOutputPixels: 20_000, maxRestoredPixels: 20_000 };
    const cut = (whole: Buffer) => whole.subarray(0, whole.length / 2);
    const wide = run(cut(await picture(100, 100)), identity, {}, { limits });
    await expect(wide).rejects.toMatchObject({ code: 'too_many_pixels' });
    const narrow = run(cut(await picture(1, 3000)), identity, { scale: 2 }, { limits });
    await expect(narrow).rejects.toMatchObject({ code: 'too_many_pixels' });
    const small = run(cut(await picture(20, 20)), identity, {}, { limits });
    await expect(small).rejects.toMatchObject({ code: 'corrupt_image' });
  });

  it('refuses an image so narrow that its padding would be the most of it', async () => {
    const limits = { maxInputPixels: 10_000, maxOutputPixels: 20_000, maxRestoredPixels: 20_000 };
    const refused = run(await picture(1, 3000), identity, { scale: 2 }, { limits });
    await expect(refused).rejects.toMatchObject({ code: 'too_many_pixels' });
    await expect(refused).rejects.toThrow('padded to 48000 pixels');
    const result = await run(
      await picture(1, 1),
      identity,
      {},
      { limits: { maxInputPixels: 1, maxOutputPixels: 16, maxRestoredPixels: 16 } },
    );
    expect(result.width).toBe(4);
  });

  it.each([
    ['webp', 4096],
    ['avif', 4097],
  ] as const)('refuses a %s wider than the format holds', async (format, width) => {
    const refused = run(await picture(width, 1), identity, { format });
    await expect(refused).rejects.toMatchObject({ code: 'unsupported_output' });
    await expect(refused).rejects.toThrow('Choose format=png');
  });
});

describe('tiled against untiled', () => {
  const untile = (model: string) =>
    changedBundle(bundlePath(model), (manifest) => {
      for (const graph of Object.values(manifest.graphs)) graph.tileLatents = 1024;
    });

  it('encoder and decoder of finite radius are equal everywhere, the UNet is within 50 dB', async () => {
    const lowRes = await picture(123, 95);
    const [tiled, whole] = [
      await loadOnCpu(bundlePath('blur')),
      await loadOnCpu(await untile('blur')),
    ];
    const pixels = async (model: Model, pix: number) =>
      (await pixelsOf((await run(lowRes, model, { pix, sem: 0.5 * pix })).image)).data;
    expect(difference(await pixels(tiled, 0), await pixels(whole, 0)).max).toBe(0);
    expect(difference(await pixels(tiled, 2), await pixels(whole, 2), 255).psnr).toBeGreaterThan(
      50,
    );
  });

  it('would show a halo that is too small', async () => {
    const careless = await changedBundle(bundlePath('blur'), ({ graphs }) => {
      // A radius that the graphs do not have lets the check of the manifest pass.
      for (const graph of Object.values(graphs)) {
        Object.assign(graph, { overlapLatents: 0, receptiveRadiusLatents: 0 });
      }
    });
    const lowRes = await picture(123, 95);
    const [tiled, whole] = [await loadOnCpu(careless), await loadOnCpu(await untile('blur'))];
    const pixels = async (model: Model) =>
      (await pixelsOf((await run(lowRes, model, { pix: 0, sem: 0 })).image)).data;
    expect(difference(await pixels(tiled), await pixels(whole)).max).toBeGreaterThan(5);
  });
});

describe('a model that overflows', () => {
  it('is an error, not a black image', async () => {
    const overflowing: Model = {
      ...identity,
      manifest: identity.manifest,
      tilePolicy: identity.tilePolicy,
      encodeLatents: (...tile) => identity.encodeLatents(...tile),
      predict: (...tile) => identity.predict(...tile),
      stagesOf: (graph) => identity.stagesOf(graph),
      decodeLatents: async (latents, size, pixels) => {
        await identity.decodeLatents(latents, size, pixels);
        pixels[pixels.length - 1] = Number.NaN;
      },
    };
    const failing = run(await picture(20, 20), overflowing);
    await expect(failing).rejects.toMatchObject({ code: 'model_failed' });
    await expect(failing).rejects.toThrow('no numbers (NaN)');
  });
});

describe('determinism', () => {
  it.each(['png', 'jpeg', 'webp', 'avif'] as const)(
    '%s: same request, same bytes',
    async (format) => {
      const lowRes = readFileSync(photoPath('coffee-150x100.jpg'));
      const once = await run(lowRes, identity, { format, colorfix: 'adain' });
      const again = await run(lowRes, identity, { format, colorfix: 'adain' });
      expect(Buffer.compare(once.image, again.image)).toBe(0);
      expect(once.contentType).toBe(`image/${format}`);
    },
  );
});

describe('EXIF orientation', () => {
  /** How pixels must be stored so that each orientation shows them upright. */
  const stored: Record<number, (image: Sharp) => Sharp> = {
    1: (image) => image,
    2: (image) => image.flop(),
    3: (image) => image.rotate(180),
    4: (image) => image.flip(),
    5: (image) => image.rotate(270).flop(),
    6: (image) => image.rotate(270),
    7: (image) => image.rotate(90).flop(),
    8: (image) => image.rotate(90),
  };

  const lossless = {
    png: {},
    tiff: { compression: 'lzw' },
    webp: { lossless: true },
    avif: { lossless: true },
    jpeg: { quality: 100, chromaSubsampling: '4:4:4' },
  } as const;

  it.each([
    ['png', 0],
    ['tiff', 0],
    ['webp', 0],
    ['avif', 0],
    // The blocks of a JPEG lie elsewhere in each orientation.
    ['jpeg', 6],
  ] as const)('all eight in %s give one result', async (format, tolerance) => {
    const photo = readFileSync(photoPath('rocket-160x106.png'));
    let upright: Pixels | undefined;
    for (const [orientation, turn] of Object.entries(stored)) {
      const turned = await turn(sharp(photo)).png().toBuffer();
      const lowRes = await sharp(turned)
        .withMetadata({ orientation: Number(orientation) })
        .toFormat(format, lossless[format])
        .toBuffer();
      const result = await run(lowRes, identity, { scale: 2 });
      expect(result.input).toMatchObject({ width: 160, height: 106 });
      const pixels = await pixelsOf(result.image);
      upright ??= pixels;
      expect(difference(pixels.data, upright.data).max).toBeLessThanOrEqual(tolerance);
    }
  });
});

describe('progress and cancellation', () => {
  it('rises from stage to stage up to 1 and never falls', async () => {
    const seen: Progress[] = [];
    await run(await picture(90, 70), identity, {}, { onProgress: (one) => seen.push(one) });
    const fractions = seen.map(({ fraction }) => fraction);
    expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
    expect(fractions.at(-1)).toBe(1);
    expect(new Set(seen.map(({ stage }) => stage))).toEqual(new Set(stages));
    // Between tiles too: many steps inside the stages that run graphs.
    expect(seen.filter(({ stage }) => stage === 'predict_residual').length).toBeGreaterThan(10);
  });

  it('stops between two tiles with the reason of the signal', async () => {
    const abort = new AbortController();
    const reason = new AppError('canceled', 'Enough.');
    let decoded = 0;
    let tilesAfter = 0;
    const stopped = run(
      await picture(90, 70),
      identity,
      {},
      {
        signal: abort.signal,
        onProgress: ({ stage }) => {
          if (abort.signal.aborted) tilesAfter++;
          if (stage !== 'decode_latents') return;
          decoded++;
          if (decoded === 3) abort.abort(reason);
        },
      },
    );
    await expect(stopped).rejects.toBe(reason);
    expect(tilesAfter).toBeLessThanOrEqual(1);
  });

  it('does not begin when the signal is aborted already', async () => {
    const reason = new AppError('job_timeout', 'Too late.');
    const stopped = run(await picture(9, 7), identity, {}, { signal: AbortSignal.abort(reason) });
    await expect(stopped).rejects.toBe(reason);
  });

  it('gives the event loop a turn between tiles', async () => {
    // ONNX Runtime gives turns of its own: graphs that do not leave only the pipeline's.
    const blank: Model = {
      ...identity,
      encodeLatents: async () => {},
      predict: async () => {},
      decodeLatents: async () => {},
      stagesOf: () => undefined,
    };
    let turn = 0;
    let running = true;
    const count = () => {
      turn++;
      if (running) setImmediate(count);
    };
    setImmediate(count);
    const reports: { stage: string; turn: number }[] = [];
    const onProgress = ({ stage }: Progress) => reports.push({ stage, turn });
    await run(await picture(200, 160), blank, {}, { onProgress });
    running = false;
    for (const stage of ['encode_latents', 'predict_residual', 'decode_latents']) {
      const turns = reports.filter((report) => report.stage === stage).map((report) => report.turn);
      expect(turns.length).toBeGreaterThan(10);
      // Each in a turn of its own, but the first: a stage that begins goes straight to its first tile.
      expect(new Set(turns.slice(1)).size, stage).toBe(turns.length - 1);
    }
  });
});
