/** Pictures about a photo: the sheet of many dials, and the map of what was invented. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import type { UpscaleParams } from '../../../src/jobs/params.ts';
import { planSheet } from '../../../src/jobs/sheet.ts';
import { contactSheet } from '../../../src/pipeline/contact-sheet.ts';
import { heatmap } from '../../../src/pipeline/heatmap.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import type { UpscaleContext } from '../../../src/pipeline/run.ts';
import { bundlePath } from './fixtures.ts';
import { loadOnCpu, type Pixels, picture, pixelsOf, run } from './run.ts';

let model: Model;
let photo: Buffer;
let context: UpscaleContext;
const params: UpscaleParams = {
  pix: 1,
  sem: 1,
  scale: 2,
  format: 'png',
  quality: 90,
  metadata: 'none',
  model: 'identity',
};

beforeAll(async () => {
  model = await loadOnCpu(bundlePath('identity'));
  photo = await picture(40, 30);
  context = {
    model,
    limits: { maxInputPixels: 1e6, maxOutputPixels: 1e7, maxRestoredPixels: 1e7 },
  };
});
afterAll(() => model.dispose());

/** The samples of a rectangle, row by row. */
function cut({ data, width }: Pixels, x: number, y: number, w: number, h: number): number[] {
  return Array.from({ length: h }, (_, row) => [
    ...data.subarray(3 * ((y + row) * width + x), 3 * ((y + row) * width + x + w)),
  ]).flat();
}

const farthest = (a: number[], b: number[]): number =>
  a.reduce((most, value, i) => Math.max(most, Math.abs(value - (b[i] ?? Number.NaN))), 0);

const descriptionOf = async (image: Uint8Array): Promise<Record<string, unknown>> => {
  const exif = (await sharp(image).metadata()).exif?.toString('latin1') ?? '';
  return JSON.parse(/\{.*\}/s.exec(exif)?.[0] ?? '{}') as Record<string, unknown>;
};

describe('a contact sheet', () => {
  const sweep = { pix: [0, 0.5, 1.5], sem: [0, 1.25] };

  it('has in each cell what the pipeline gives at its dials, and a label beside it', async () => {
    const result = await contactSheet(photo, params, sweep, context);
    const layout = planSheet({ width: 80, height: 60 }, sweep);
    const sheet = await pixelsOf(result.image);
    expect([sheet.width, sheet.height, sheet.channels]).toEqual([layout.width, layout.height, 3]);
    for (const [row, sem] of sweep.sem.entries()) {
      for (const [column, pix] of sweep.pix.entries()) {
        const { x, y } = layout.cell(column, row);
        const single = await pixelsOf((await run(photo, model, { ...params, pix, sem })).image);
        expect(
          farthest(cut(sheet, x, y, 80, 60), [...single.data]),
          `${pix}, ${sem}`,
        ).toBeLessThanOrEqual(1);
      }
    }
    const { x, y } = layout.cell(0, 0);
    const ink = (values: number[]): number => values.filter((value) => value === 0).length / 3;
    const heads = sweep.pix.map((_, column) => ink(cut(sheet, layout.cell(column, 0).x, 0, 60, y)));
    expect(Math.min(...heads)).toBeGreaterThan(40);
    expect(new Set(heads).size).toBeGreaterThan(1);
    const sides = sweep.sem.map((_, row) => ink(cut(sheet, 0, layout.cell(0, row).y, x, 60)));
    expect(Math.min(...sides)).toBeGreaterThan(30);
    expect(await descriptionOf(result.image)).toMatchObject({ ...sweep, model: 'identity' });
    expect((await sharp(result.image).metadata()).density).toBe(72);
  });

  it('is white where the picture is transparent, as a JPEG of it is', async () => {
    const { data, width, height } = await pixelsOf(photo);
    const raw = { width, height, channels: 3 } as const;
    const levels = Uint8Array.from({ length: width * height }, (_, i) =>
      i % width < 20 ? 0 : 255,
    );
    const alpha = Buffer.from(levels);
    const cutOut = await sharp(data, { raw })
      .joinChannel(alpha, { raw: { width, height, channels: 1 } })
      .png()
      .toBuffer();
    const one = { pix: [1], sem: [1] };
    const sheet = await pixelsOf((await contactSheet(cutOut, params, one, context)).image);
    const { x, y } = planSheet({ width: 80, height: 60 }, one).cell(0, 0);
    expect(Math.min(...cut(sheet, x, y, 36, 60))).toBe(255);
    const single = await pixelsOf((await run(cutOut, model, params)).image);
    const opaque = [...single.data].filter((_, i) => i % 4 < 3 && Math.floor(i / 4) % 80 >= 44);
    expect(farthest(cut(sheet, x + 44, y, 36, 60), opaque)).toBeLessThanOrEqual(1);
  });

  it('reports progress cell by cell, colour fix or not', async () => {
    for (const colorfix of ['none', 'adain'] as const) {
      const fractions: number[] = [];
      await contactSheet(photo, { ...params, colorfix }, sweep, {
        ...context,
        onProgress: ({ fraction }) => fractions.push(fraction),
      });
      expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
      const steps = [...new Set(fractions)];
      const widest = Math.max(...steps.slice(1).map((step, i) => step - (steps[i] ?? 0)));
      // Six cells are nearly all of the work: none may be more than a quarter of it.
      expect(widest).toBeLessThan(0.25);
      expect(fractions.at(-1)).toBeCloseTo(1, 5);
    }
  });

  it('evaluates the UNet once for all cells, as often as the dials need', async () => {
    const of = async (pix: number[], sem: number[]) =>
      (await contactSheet(photo, params, { pix, sem }, context)).evaluations;
    expect(await of([0.5, 1, 1.5], [0, 0.5, 1])).toBe(2);
    expect(await of([0.5, 1], [0])).toBe(1);
    expect(await of([0], [0])).toBe(0);
  });

  it('is held to the pixel limit itself, not only in its cells', async () => {
    const { width, height } = planSheet({ width: 80, height: 60 }, sweep);
    const within = (maxOutputPixels: number) =>
      contactSheet(photo, params, sweep, {
        ...context,
        limits: { ...context.limits, maxOutputPixels },
      });
    await expect(within(width * height - 1)).rejects.toMatchObject({
      code: 'too_many_pixels',
      message: expect.stringMatching(/^The sheet would have/),
    });
    expect((await within(width * height)).width).toBe(width);
  });

  it('grows with its labels: large cells get larger dots', () => {
    const one = { pix: [1], sem: [1] };
    expect(planSheet({ width: 100, height: 100 }, one).dot).toBe(1);
    expect(planSheet({ width: 1024, height: 2000 }, one).dot).toBe(8);
    const narrow = planSheet({ width: 10, height: 100 }, { pix: [1, 2], sem: [1] });
    expect(narrow.cell(1, 0).x - narrow.cell(0, 0).x).toBeGreaterThan(50);
  });
});

describe('a heat map', () => {
  /** Black at the left, white at the right. */
  const halves = (): Promise<Buffer> => {
    const row = Array.from({ length: 40 }, (_, x) => (x < 20 ? 128 : 255));
    const grey = Uint8Array.from({ length: 30 }).fill(0);
    return sharp(Uint8Array.from([...grey].flatMap(() => row)), {
      raw: { width: 40, height: 30, channels: 1 },
    })
      .png()
      .toBuffer();
  };

  it('is dark where both residuals agree and bright where they differ most', async () => {
    // ε_pix = 0.1·z and ε_PiSA = 0.3·z: middle grey is z ≈ 0, white is z = 1.
    const result = await heatmap(await halves(), params, context);
    expect([result.width, result.height, result.evaluations]).toEqual([80, 60, 2]);
    const pixels = await pixelsOf(result.image);
    const mean = (values: number[]) =>
      values.reduce((sum, value) => sum + value, 0) / values.length;
    expect(mean(cut(pixels, 0, 0, 30, 60))).toBeLessThan(12);
    expect(mean(cut(pixels, 50, 0, 30, 60))).toBeGreaterThan(200);
    const { brightest } = await descriptionOf(result.image);
    expect(brightest).toBeGreaterThan(0.15);
    expect((await sharp(result.image).metadata()).density).toBe(72);
    const doubled = await heatmap(await halves(), { ...params, sem: 2 }, context);
    expect((await descriptionOf(doubled.image)).brightest).toBeCloseTo(2 * Number(brightest), 4);
  });

  it('is as bright as what is seen, whatever the padding has', async () => {
    const tensors = new Map<string, Uint8Array>();
    const kept = {
      maxBytes: 1e9,
      read: async (name: string) => tensors.get(name),
      write: (name: string, bytes: Uint8Array) => void tensors.set(name, bytes),
    };
    const lowRes = await picture(37, 29);
    const brightest = async () => {
      const { image } = await heatmap(lowRes, params, { ...context, kept });
      return (await descriptionOf(image)).brightest;
    };
    // The second run reads what the first has kept, to the precision of float16.
    await brightest();
    const before = await brightest();
    // 48 channels of float16 behind the fingerprint: of 38 × 30 cells, 37 × 29 are of the 148 × 116 restored pixels.
    const [columns, cells] = [38, 38 * 30];
    const bytes = tensors.get('eps_pisa') ?? expect.fail('no residual was kept');
    const residual = new Uint16Array(bytes.buffer, 32);
    expect(residual).toHaveLength(48 * cells);
    const raise = (isRaised: (x: number, y: number) => boolean) => {
      for (const i of residual.keys()) {
        const cell = i % cells;
        // 1024 in float16.
        if (isRaised(cell % columns, Math.floor(cell / columns))) residual[i] = 0x6400;
      }
    };
    raise((x, y) => x >= 37 || y >= 29);
    expect(await brightest()).toBe(before);
    raise((x, y) => x === 36 && y === 28);
    expect(await brightest()).toBeGreaterThan(1000);
  });

  it('is as bright as what is seen, whatever lies under transparency', async () => {
    // White at the right, of which the outer half is hidden; what is seen at the left is nearly grey.
    const levels = Array.from({ length: 40 }, (_, x) => (x < 20 ? 140 : 255));
    const opacity = levels.map((_, x) => (x < 16 ? 255 : 0));
    const pixels = Array.from({ length: 30 }, () => levels.flatMap((v, x) => [v, opacity[x] ?? 0]));
    const raw = { width: 40, height: 30, channels: 2 } as const;
    const lowRes = await sharp(Uint8Array.from(pixels.flat()), { raw }).png().toBuffer();
    const seen = await pixelsOf((await heatmap(lowRes, params, context)).image);
    expect(Math.max(...cut(seen, 0, 0, 24, 60))).toBeGreaterThan(200);
    expect(Math.max(...cut(seen, 44, 0, 36, 60))).toBeLessThan(12);
  });

  it('is black without semantics, and where a map takes them away', async () => {
    const none = await pixelsOf((await heatmap(photo, { ...params, sem: 0 }, context)).image);
    expect(Math.max(...none.data)).toBe(0);
    const map = await sharp(Uint8Array.of(0, 0, 255, 255), {
      raw: { width: 4, height: 1, channels: 1 },
    })
      .png()
      .toBuffer();
    const { image } = await heatmap(photo, params, { ...context, maps: { sem: map } });
    const pixels = await pixelsOf(image);
    expect(Math.max(...cut(pixels, 0, 0, 12, 60))).toBeLessThan(12);
    expect(Math.max(...cut(pixels, 60, 0, 20, 60))).toBeGreaterThan(200);
  });
});
