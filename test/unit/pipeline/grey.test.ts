/** A grey photo comes out grey, whatever the model draws. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { type OutputFormat, outputFormats, type UpscaleParams } from '../../../src/jobs/params.ts';
import { contactSheet } from '../../../src/pipeline/contact-sheet.ts';
import { decodePhoto } from '../../../src/pipeline/decode-photo.ts';
import { makeGrey } from '../../../src/pipeline/grey.ts';
import type { TensorName } from '../../../src/pipeline/kept-tensors.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { embeddedBundle, photoPath } from './fixtures.ts';
import { loadOnCpu, pixelsOf, run } from './run.ts';

/** Written text: what the embedded model colours most. */
const text = () => sharp(readFileSync(photoPath('text-112x43.png'))).greyscale();

/** One channel in the file, three equal ones, three that a lossy codec has rounded apart by one, and 16 bits. */
const greyFiles: Record<string, () => Promise<Buffer>> = {
  'grey PNG': () => text().toColourspace('b-w').png().toBuffer(),
  'grey JPEG': () => text().toColourspace('b-w').jpeg().toBuffer(),
  'grey PNG with alpha': () => text().ensureAlpha(0.5).toColourspace('b-w').png().toBuffer(),
  '16-bit grey PNG': () => text().toColourspace('grey16').png().toBuffer(),
  'RGB PNG': () => text().toColourspace('srgb').png().toBuffer(),
  'RGB PNG in Display P3': () => text().toColourspace('srgb').withIccProfile('p3').png().toBuffer(),
  'lossy WebP': () => text().toColourspace('srgb').webp({ quality: 80 }).toBuffer(),
};

/** The largest difference between the channels of a pixel, in levels, alpha apart. */
function colorfulness({ data, channels }: { data: Uint8Array; channels: number }): number {
  let most = 0;
  for (let i = 0; i < data.length; i += channels) {
    const [r, g, b] = data.subarray(i, i + 3) as unknown as [number, number, number];
    most = Math.max(most, Math.max(r, g, b) - Math.min(r, g, b));
  }
  return most;
}

describe('decodePhoto', () => {
  const isGrey = async (file: Uint8Array): Promise<boolean> =>
    (await decodePhoto(file, { maxPixels: 1e6 }, new RunControl())).isGrey;

  it.each(Object.keys(greyFiles))('calls a %s grey', async (name) => {
    expect(await isGrey(await (greyFiles[name] as () => Promise<Buffer>)())).toBe(true);
  });

  it('does not call one grey in which a single pixel has a tint', async () => {
    const samples = new Uint8Array(3 * 50 * 40).fill(120);
    samples[3 * 1234 + 2] = 122;
    const raw = { width: 50, height: 40, channels: 3 } as const;
    expect(await isGrey(await sharp(samples, { raw }).png().toBuffer())).toBe(false);
  });
});

it('the grey of a pixel is its luma, and grey stays itself', async () => {
  const image = new Planar(3, 1, 2);
  image.data.set([1, 0.5, 0, 0.5, 0.5, 0.5]);
  await makeGrey(image, new RunControl());
  const [first, second] = image.data;
  expect(first).toBeCloseTo(0.299 + 0.587 * 0 + 0.114 * 0.5, 6);
  expect(second).toBeCloseTo(0.299 * 0.5 + 0.587 * 0.5 + 0.114 * 0.5, 6);
  for (const plane of [1, 2])
    expect(image.data.slice(2 * plane, 2 * plane + 2)).toEqual(image.data.slice(0, 2));
});

describe('of a grey photo', () => {
  let model: Model;
  let photo: Buffer;
  beforeAll(async () => {
    model = await loadOnCpu(embeddedBundle);
    photo = await sharp(await (greyFiles['grey PNG'] as () => Promise<Buffer>)())
      .extract({ left: 0, top: 0, width: 48, height: 40 })
      .toColourspace('b-w')
      .png()
      .toBuffer();
  });
  afterAll(() => model.dispose());

  const params: UpscaleParams = {
    pix: 1,
    sem: 1.5,
    scale: 2,
    format: 'png',
    quality: 95,
    metadata: 'none',
    model: 'pisa-tiny',
  };

  it.each(outputFormats)('the result is grey as %s', async (format: OutputFormat) => {
    const { image } = await run(photo, model, { ...params, format });
    // WebP rounds its conversion to RGB differently for green.
    const tolerance = format === 'webp' ? 1 : 0;
    expect(colorfulness(await pixelsOf(image))).toBeLessThanOrEqual(tolerance);
  });

  it('the result is grey beside the profile of the input', async () => {
    const tagged = await sharp(photo).toColourspace('srgb').withIccProfile('p3').png().toBuffer();
    const { image } = await run(tagged, model, { ...params, metadata: 'keep' });
    expect((await sharp(image).metadata()).icc).toBeDefined();
    expect(colorfulness(await pixelsOf(image))).toBeLessThanOrEqual(1);
  });

  it('the result of an adjust and the cells of a sheet are grey', async () => {
    const tensors = new Map<TensorName, Uint8Array>();
    const kept = {
      maxBytes: 1e8,
      read: async (name: TensorName) => tensors.get(name),
      write: async (name: TensorName, bytes: Uint8Array) => void tensors.set(name, bytes),
    };
    await run(photo, model, params, { kept });
    const adjusted = await run(photo, model, { ...params, pix: 0.5 }, { kept });
    expect(colorfulness(await pixelsOf(adjusted.image))).toBe(0);
    const sweep = { pix: [0.5, 1], sem: [1] };
    const limits = { maxInputPixels: 1e6, maxOutputPixels: 1e7, maxRestoredPixels: 1e7 };
    const sheet = await contactSheet(photo, params, sweep, { model, limits, kept });
    expect(colorfulness(await pixelsOf(sheet.image))).toBe(0);
  });

  it('and only of a grey one: the model does colour', async () => {
    const tinted = await pixelsOf(await sharp(photo).toColourspace('srgb').png().toBuffer());
    tinted.data[0] = (tinted.data[0] as number) ^ 8;
    const raw = { width: 48, height: 40, channels: 3 } as const;
    const file = await sharp(tinted.data, { raw }).png().toBuffer();
    const { image } = await run(file, model, params);
    expect(colorfulness(await pixelsOf(image))).toBeGreaterThan(5);
  });
});
