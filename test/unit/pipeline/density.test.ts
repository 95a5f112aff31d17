/** The density that outputs name, in every place where a reader may look for it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { firstDirectory } from '../../../src/images/tiff-directory.ts';
import { type OutputFormat, outputFormats } from '../../../src/jobs/params.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { pngChunk } from '../images/samples.ts';
import { bundlePath } from './fixtures.ts';
import { loadOnCpu, picture, run } from './run.ts';

let identity: Model;
beforeAll(async () => {
  identity = await loadOnCpu(bundlePath('identity'));
});
afterAll(() => identity.dispose());

const [xResolution, yResolution, resolutionUnit] = [0x011a, 0x011b, 0x0128];
const inch = 2;
const metersPerInch = 0.0254;

/** As EXIF has it: the numbers of both axes, and their unit. */
async function exifDensity(image: Uint8Array): Promise<number[]> {
  const { exif = Buffer.alloc(0) } = await sharp(image).metadata();
  const at = exif.subarray(0, 4).toString('latin1') === 'Exif' ? 6 : 0;
  const directory = firstDirectory(exif.subarray(at));
  if (!directory) return [];
  const { words, little, entries } = directory;
  const valueAt = (tag: number) => entries.find((one) => one.tag === tag)?.valueAt ?? Number.NaN;
  const rational = (tag: number) => {
    const offset = words.getUint32(valueAt(tag), little);
    return words.getUint32(offset, little) / words.getUint32(offset + 4, little);
  };
  const unit = words.getUint16(valueAt(resolutionUnit), little);
  return [rational(xResolution), rational(yResolution), unit];
}

/** As a PNG has it beside its EXIF; here the other formats have it there alone. */
function physicalDensity(png: Buffer): number[] {
  const at = png.indexOf('pHYs') + 4;
  return [0, 4].map((axis) => Math.round(png.readUInt32BE(at + axis) * metersPerInch));
}

async function expectDensity(image: Uint8Array, format: OutputFormat, density: number) {
  expect(await exifDensity(image)).toEqual([density, density, inch]);
  if (format === 'png') {
    expect(physicalDensity(Buffer.from(image))).toEqual([density, density]);
  }
}

async function pngOf(perInch: number): Promise<Buffer> {
  const png = await picture(16, 12);
  const at = png.indexOf('pHYs') - 4;
  const physical = Buffer.alloc(9, 1);
  for (const axis of [0, 4]) physical.writeUInt32BE(Math.round(perInch / metersPerInch), axis);
  const rest = png.subarray(at + 12 + physical.length);
  return Buffer.concat([png.subarray(0, at), pngChunk('pHYs', physical), rest]);
}

/** With the segment that sharp does not write (JFIF 1.02): version, unit, both axes, no thumbnail. */
async function jfifOf(perInch: number): Promise<Buffer> {
  const jpeg = await sharp(await picture(16, 12))
    .jpeg()
    .toBuffer();
  const segment = Buffer.from('\xff\xe0\0\x10JFIF\0\x01\x02\x01\0\0\0\0\0\0', 'latin1');
  for (const axis of [12, 14]) segment.writeUInt16BE(perInch, axis);
  return Buffer.concat([jpeg.subarray(0, 2), segment, jpeg.subarray(2)]);
}

const tiffOf = async (perInch: number, unit: 'inch' | 'cm'): Promise<Buffer> =>
  sharp(await picture(16, 12))
    .tiff({ xres: perInch / 25.4, yres: perInch / 25.4, resolutionUnit: unit })
    .toBuffer();

/** The TIFF with the unit that is none (TIFF 6.0, ResolutionUnit). */
function withoutUnit(tiff: Buffer): Buffer {
  const directory = firstDirectory(tiff);
  const entry = directory?.entries.find(({ tag }) => tag === resolutionUnit);
  directory?.words.setUint16(entry?.valueAt ?? Number.NaN, 1, directory.little);
  return tiff;
}

const exifOf = async (perInch: number, format: 'webp' | 'avif' | 'jpeg'): Promise<Buffer> =>
  sharp(await picture(16, 12))
    .withDensity(perInch)
    .toFormat(format)
    .toBuffer();

const inputs = {
  'a PNG': () => pngOf(300),
  'a TIFF in inches': () => tiffOf(300, 'inch'),
  'a TIFF in centimetres': () => tiffOf(300, 'cm'),
  'a JPEG without EXIF': () => jfifOf(300),
  'a JPEG with EXIF': () => exifOf(300, 'jpeg'),
  'a WebP': () => exifOf(300, 'webp'),
  'an AVIF': () => exifOf(300, 'avif'),
};

describe.each(outputFormats)('a %s', (format) => {
  const of = async (lowRes: Buffer, metadata: 'none' | 'keep') =>
    (await run(lowRes, identity, { pix: 0, sem: 0, scale: 2, format, metadata })).image;

  it.each(Object.entries(inputs))('keeps that of %s', async (_, input) => {
    await expectDensity(await of(await input(), 'keep'), format, 300);
  });

  it('does not take that of a TIFF without unit', async () => {
    const tiff = await tiffOf(300, 'inch');
    await expectDensity(await of(withoutUnit(tiff), 'keep'), format, 72);
  });

  it('names the 72 that EXIF has for an unknown one, without metadata=keep', async () => {
    await expectDensity(await of(await pngOf(300), 'none'), format, 72);
  });
});
