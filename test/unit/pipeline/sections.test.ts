/** Photos whose restored picture is too large to be held at once: in sections they become what they would be whole. */
import { describe, expect, it, onTestFinished } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import type { Progress } from '../../../src/jobs/job.ts';
import { upscaleDefaults } from '../../../src/jobs/params.ts';
import { contactSheet } from '../../../src/pipeline/contact-sheet.ts';
import { planGeometry } from '../../../src/pipeline/geometry.ts';
import { heatmap } from '../../../src/pipeline/heatmap.ts';
import { loadManifest } from '../../../src/pipeline/manifest.ts';
import { type Model, tilePolicyOf } from '../../../src/pipeline/model.ts';
import type { UpscaleContext } from '../../../src/pipeline/run.ts';
import { bundlePath, difference, embeddedBundle } from './fixtures.ts';
import { changedBundle, loadOnCpu, picture, pixelsOf, run } from './run.ts';

const model = await loadOnCpu(bundlePath('blur'));
const identity = await loadOnCpu(bundlePath('identity'));
const whole = { maxInputPixels: 1e6, maxOutputPixels: 1e8, maxRestoredPixels: 0 };
/** Of 300 × 200 pixels, which are 960,000 four times enlarged, one section has at most 450,000. */
const inSections = { maxInputPixels: 1e6, maxOutputPixels: 900_000, maxRestoredPixels: 1e6 };
const width = 300;
const height = 200;
const png = await picture(width, height);

const sectionsAt = (scale: number, { manifest, tilePolicy }: Model = model) =>
  planGeometry(
    { width, height },
    scale,
    { manifest, tilePolicy },
    inSections.maxOutputPixels,
    inSections.maxRestoredPixels,
  ).sections;

describe('the plan', () => {
  it.each([
    [4032, 3024, 2],
    [4032, 3024, 1],
    [4032, 3024, 1.37],
    [4031, 3023, 1.75],
    [5000, 2000, 2.5],
    [20_000, 600, 1],
    [8200, 10, 1],
  ])(
    '%d × %d at scale %d is cut without a gap, in phase, within the limits',
    (wide, high, scale) => {
      const plan = planGeometry(
        { width: wide, height: high },
        scale,
        model,
        67_108_864,
        201_326_592,
      );
      const { output, extent, restored, sections } = plan;
      expect(output).toEqual({ width: Math.round(scale * wide), height: Math.round(scale * high) });
      const factor = extent.width / output.width;
      expect(extent.height / output.height).toBeCloseTo(factor, 12);
      expect(restored).toEqual({
        width: Math.ceil(extent.width),
        height: Math.ceil(extent.height),
      });
      expect(factor * scale).toBeLessThan(4.01);
      expect(factor * scale).toBeGreaterThan(0.92 * 4);
      expect(sections.length).toBeGreaterThan(1);
      const edges = new Set<string>();
      let placed = 0;
      for (const { window, visible, reduced, place } of sections) {
        expect(window.width * window.height).toBeLessThanOrEqual(67_108_864 / 2);
        expect(Math.max(window.width, window.height)).toBeLessThanOrEqual(32_768);
        expect(((window.x / 8) % 1) + ((window.y / 8) % 1)).toBe(0);
        expect(window.x + visible.x).toBeCloseTo(reduced.x * factor, 6);
        expect(window.y + visible.y).toBeCloseTo(reduced.y * factor, 6);
        expect(visible.width).toBeCloseTo(reduced.width * factor, 6);
        expect(visible.height).toBeCloseTo(reduced.height * factor, 6);
        placed += place.width * place.height;
        edges.add(`${place.x},${place.y}`);
      }
      expect(placed).toBe(output.width * output.height);
      expect(edges.size).toBe(sections.length);
      expect(edges).toContain('0,0');
    },
  );

  it('one that is larger still is restored at the largest scale that fits', () => {
    const { restored, sections } = planGeometry(
      { width: 6000, height: 4000 },
      1.5,
      model,
      67_108_864,
      201_326_592,
    );
    expect(sections.length).toBeGreaterThan(1);
    expect(restored.width * restored.height).toBeLessThan(1.001 * 201_326_592);
    expect(restored.width / 6000).toBeGreaterThan(2.7);
  });

  it.each([1, 2, 2.34])(
    'at scale %d, margins of the embedded model are less than an eighth',
    async (scale) => {
      const manifest = await loadManifest(embeddedBundle);
      const tilePolicy = tilePolicyOf(manifest, { executionProvider: 'cpu' });
      const embedded = { manifest, tilePolicy };
      const size = { width: 4032, height: 3024 };
      const plan = planGeometry(size, scale, embedded, 67_108_864, 201_326_592);
      const pixels = plan.sections.reduce((sum, { latents: cells }) => {
        return sum + cells.width * cells.height * manifest.latents.downscale ** 2;
      }, 0);
      expect(plan.sections.length).toBeGreaterThan(1);
      expect(pixels / (plan.restored.width * plan.restored.height)).toBeLessThan(1.125);
    },
  );

  it('one for which the steps of sections are no gain is not cut', () => {
    const size = { width: 2540, height: 1693 };
    for (const scale of [3.43, 3.5, 3.6]) {
      const plan = planGeometry(size, scale, model, 67_108_864, 201_326_592);
      expect(plan.sections, `scale ${scale}`).toHaveLength(1);
    }
  });

  it('one that fits is not cut', () => {
    expect(planGeometry({ width, height }, 1, model, 960_000, 1e6).sections).toHaveLength(1);
  });

  it('nor is one whose margins would be most of the work', () => {
    expect(planGeometry({ width, height }, 2, model, 300_000, 1e6).sections).toHaveLength(1);
  });

  it('nor for a bundle that sees all of the picture in its encoder or decoder', async () => {
    const global = await loadOnCpu(
      await changedBundle(bundlePath('blur'), ({ graphs }) => {
        graphs.decoder.receptiveRadiusLatents = null;
      }),
    );
    onTestFinished(() => global.dispose());
    expect(sectionsAt(2)).not.toHaveLength(1);
    expect(sectionsAt(2, global)).toHaveLength(1);
  });
});

describe('the result', () => {
  const both = async (params: Parameters<typeof run>[2], context: Partial<UpscaleContext> = {}) => {
    const of = async (limits: typeof whole) =>
      (await pixelsOf((await run(png, model, params, { ...context, limits })).image)).data;
    return difference(await of(whole), await of(inSections), 255);
  };

  it.each([1, 1.5, 2, 3])('at scale %d is the same through encoder and decoder', async (scale) => {
    // By one level at an edge, where libvips repeats what it has halved.
    expect((await both({ pix: 0, sem: 0, scale })).max).toBeLessThanOrEqual(scale === 1 ? 1 : 0);
  });

  it.each([
    [305, 201, 1.75],
    [299, 200, 1],
    [310, 221, 2.2],
  ])('of %d × %d at scale %d lies where the photo lies', async (wide, high, scale) => {
    const wave = (x: number, y: number) => 127 + 100 * Math.sin(0.3 * x + 0.2 * y);
    const grey = Uint8Array.from({ length: wide * high }, (_, i) =>
      Math.round(wave(i % wide, Math.floor(i / wide))),
    );
    const raw = { width: wide, height: high, channels: 1 } as const;
    const photo = await sharp(grey, { raw }).png().toBuffer();
    const { manifest, tilePolicy } = identity;
    const size = { width: wide, height: high };
    const plan = planGeometry(size, scale, { manifest, tilePolicy }, 900_000, 1e6);
    expect(plan.sections.length).toBeGreaterThan(1);
    const params = { pix: 0, sem: 0, scale };
    const { data, width, height, channels } = await pixelsOf(
      (await run(photo, identity, params, { limits: inSections })).image,
    );
    const inPhoto = (pixel: number, length: number, of: number) =>
      ((pixel + 0.5) * of) / length - 0.5;
    let most = 0;
    // At its edges a picture is repeated.
    for (let y = 8; y < height - 8; y++) {
      for (let x = 8; x < width - 8; x++) {
        const wanted = wave(inPhoto(x, width, wide), inPhoto(y, height, high));
        most = Math.max(most, Math.abs((data[channels * (y * width + x)] as number) - wanted));
      }
    }
    expect(most).toBeLessThan(3);
  });

  it('is the same with a colour fix that looks around', async () => {
    expect((await both({ pix: 0, sem: 0, scale: 2, colorfix: 'wavelet' })).max).toBe(0);
  });

  it('differs no more by the UNet than tiles do', async () => {
    expect((await both({ pix: 1, sem: 0.5, scale: 2 })).psnr).toBeGreaterThan(50);
  });

  it('has the strength map in its place', async () => {
    const map = await sharp({
      create: { width: 4, height: 2, channels: 3, background: 'white' },
    })
      .composite([
        {
          input: { create: { width: 1, height: 1, channels: 3, background: 'black' } },
          left: 2,
          top: 1,
        },
      ])
      .png()
      .toBuffer();
    const maps = { pix: map };
    expect((await both({ pix: 2, sem: 0, scale: 2 }, { maps })).psnr).toBeGreaterThan(50);
    const mapped = run(png, model, { pix: 2, sem: 0, scale: 2 }, { maps, limits: inSections });
    const plain = run(png, model, { pix: 2, sem: 0, scale: 2 }, { limits: inSections });
    const data = async (result: typeof plain) => (await pixelsOf((await result).image)).data;
    expect(difference(await data(mapped), await data(plain)).max).toBeGreaterThan(10);
  });

  it('keeps alpha, and grey stays grey', async () => {
    const grey = await sharp(await picture(width, height, 4))
      .greyscale()
      .png()
      .toBuffer();
    const { image } = await run(grey, model, { scale: 2 }, { limits: inSections });
    const { data, channels } = await pixelsOf(image);
    const uncut = await pixelsOf((await run(grey, model, { scale: 2 }, { limits: whole })).image);
    expect(channels).toBe(uncut.channels);
    expect(difference(data, uncut.data, 255).psnr).toBeGreaterThan(50);
  });

  it('is made at once where a colour fix takes statistics of the whole', async () => {
    const params = { pix: 1, sem: 1, scale: 2, colorfix: 'adain' } as const;
    const uncut = { ...inSections, maxRestoredPixels: 0 };
    const [image, same] = [
      (await run(png, model, params, { limits: inSections })).image,
      (await run(png, model, params, { limits: uncut })).image,
    ];
    expect(Buffer.compare(image, same)).toBe(0);
  });
});

it.each([
  ['the sheet', { pix: 1, sem: 1, scale: 1 }],
  ['the heat map', { pix: 1, sem: 1, scale: 2 }],
] as const)('%s of such a photo shows what the result has', async (kind, dials) => {
  const params = { ...upscaleDefaults, model: 'blur', ...dials };
  const of = async (limits: typeof whole) => {
    const context = { model, limits };
    return kind === 'the sheet'
      ? contactSheet(png, params, { pix: [0, 1], sem: [0, 1] }, context)
      : heatmap(png, params, context);
  };
  const [cut, uncut] = [await of(inSections), await of(whole)];
  expect(cut.evaluations).toBe(2);
  const [data, wanted] = [await pixelsOf(cut.image), await pixelsOf(uncut.image)];
  expect([data.width, data.height]).toEqual([wanted.width, wanted.height]);
  expect(difference(data.data, wanted.data, 255).psnr).toBeGreaterThan(50);
});

it('progress goes through the sections, and nothing is kept', async () => {
  const fractions: Progress[] = [];
  const names: string[] = [];
  const kept = {
    maxBytes: 1e9,
    read: async (name: string) => void names.push(name),
    write: (name: string) => void names.push(name),
  };
  await run(
    await picture(width, height),
    model,
    { scale: 2 },
    { limits: inSections, kept, onProgress: (progress) => fractions.push(progress) },
  );
  expect(names).toEqual([]);
  const count = sectionsAt(2).length;
  const ends = fractions.filter(
    ({ stage }, i) => stage === 'color_fix' && fractions[i + 1]?.stage !== 'color_fix',
  );
  expect(ends).toHaveLength(count);
  const steps = ends.map(({ fraction }, i) => fraction - (ends[i - 1]?.fraction ?? 0));
  for (const step of steps.slice(1)) expect(step).toBeCloseTo(steps[1] as number, 6);
  expect(fractions.at(-1)?.fraction).toBe(1);
});
