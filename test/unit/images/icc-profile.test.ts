import { describe, expect, it } from 'vitest';
import {
  isRgbInputProfile,
  isRgbOutputProfile,
  maxProfileBytes,
} from '../../../src/images/icc-profile.ts';
import { inspectImage } from '../../../src/images/inspect-image.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { decodeImage } from '../../../src/pipeline/decode-image.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { inputOnlyProfile, profileOf } from '../pipeline/icc-profiles.ts';
import { picture } from '../pipeline/run.ts';
import { samples, withProfile } from './samples.ts';

const matrix = ['rXYZ', 'gXYZ', 'bXYZ', 'rTRC', 'gTRC', 'bTRC'];
const withTags = (tags: string[], colorSpace?: string): Buffer =>
  profileOf(Object.fromEntries(tags.map((tag) => [tag, Buffer.alloc(4)])), colorSpace);

describe('a profile into which RGB can be brought, or out of which', () => {
  it.each(['srgb', 'p3'])('is that of %s', async (name) => {
    const image = await sharp(await picture(8, 8))
      .withIccProfile(name)
      .png()
      .toBuffer();
    const { icc } = await sharp(image).metadata();
    expect(isRgbOutputProfile(icc as Buffer)).toBe(true);
  });

  it.each([
    ['a matrix and curves', withTags(matrix), true, true],
    ['a table to the device', withTags(['A2B0', 'B2A0']), true, true],
    ['a table to the device only', withTags(['B2A0']), true, false],
    ['a table from the device, and a matrix', withTags(['A2B0', ...matrix]), true, true],
    ['a table from the device only', inputOnlyProfile(), false, true],
    ['a matrix without a curve', withTags(matrix.slice(0, 5)), false, false],
    ['a matrix without a colour', withTags(matrix.slice(1)), false, false],
    ['another colour space', withTags(['A2B0', 'B2A0'], 'CMYK'), false, false],
    ['no tags', withTags([]), false, false],
    ['less than a header', Buffer.alloc(40), false, false],
  ])('may have %s', (_what, profile, isOutput, isInput) => {
    expect(isRgbOutputProfile(profile)).toBe(isOutput);
    expect(isRgbInputProfile(profile)).toBe(isInput);
  });

  it('is none whose table is cut, whatever its count says', () => {
    const profile = withTags(matrix);
    profile.writeUInt32BE(0xffffffff, 128);
    expect(isRgbOutputProfile(profile)).toBe(true);
    expect(isRgbOutputProfile(profile.subarray(0, 128 + 4 + 5 * 12 + 11))).toBe(false);
  });
});

describe('a curve of nearly linear light', () => {
  const words = (...values: number[]) => {
    const data = Buffer.alloc(2 * values.length);
    for (const [i, value] of values.entries()) data.writeUInt16BE(value, 2 * i);
    return data;
  };
  const samplesOf = (...values: number[]) =>
    Buffer.concat([Buffer.from('curv\0\0\0\0'), words(0, values.length, ...values)]);
  const formula = (type: number, ...parameters: number[]) => {
    const numbers = Buffer.alloc(4 * parameters.length);
    for (const [i, value] of parameters.entries()) {
      numbers.writeInt32BE(Math.round(65_536 * value), 4 * i);
    }
    return Buffer.concat([Buffer.from('para\0\0\0\0'), words(type, 0), numbers]);
  };
  const table = (gamma: number) =>
    samplesOf(...Array.from({ length: 256 }, (_, i) => Math.round(65_535 * (i / 255) ** gamma)));
  const sRgb = [1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045];

  it.each([
    ['no samples', samplesOf(), false],
    ['the gamma 1.0', samplesOf(256), false],
    ['the gamma 1.8', samplesOf(461), true],
    ['two samples', samplesOf(0, 65_535), false],
    ['a straight table', table(1), false],
    ['the table of 2.2', table(2.2), true],
    ['a formula of 1.0', formula(0, 1), false],
    ['a formula of 2.2', formula(0, 2.2), true],
    ['a line with an offset', formula(1, 1, 1, 0), false],
    ['a power with an offset', formula(2, 2.4, 1 / 1.1, 0.1 / 1.1, 0), true],
    ['that of sRGB', formula(3, 2.4, ...sRgb), true],
    ['a line below a power', formula(3, 2.4, 1, 0, 1, 0.5), false],
    ['that of sRGB, with offsets', formula(4, 2.4, ...sRgb, 0, 0), true],
    ['an unknown formula', formula(5, 1), true],
    ['less than a formula', formula(0).subarray(0, 10), true],
    ['a count of samples that are not there', samplesOf(461).subarray(0, 12), false],
  ])('is none to write with: %s', (_, curve, expected) => {
    const tags = Object.fromEntries(matrix.map((tag) => [tag, Buffer.alloc(20)]));
    expect(isRgbOutputProfile(profileOf({ ...tags, rTRC: curve }))).toBe(expected);
    expect(isRgbInputProfile(profileOf({ ...tags, rTRC: curve }))).toBe(true);
    expect(isRgbOutputProfile(profileOf({ ...tags, rTRC: curve, B2A0: Buffer.alloc(4) }))).toBe(
      true,
    );
  });
});

describe('a profile that is not applied', () => {
  const limits = { maxPixels: 10_000 };
  const steps = ['D2B0', 'D2B1', 'D2B2', 'D2B3', 'B2D0', 'B2D1', 'B2D2', 'B2D3'];
  const refusal = (words: RegExp) => ({
    code: 'unsupported_media_type',
    message: expect.stringMatching(words),
  });

  async function expectRefused(file: Buffer, words: RegExp): Promise<void> {
    await expect(inspectImage(file, limits)).rejects.toMatchObject(refusal(words));
    const decoded = decodeImage(file, limits, new RunControl());
    await expect(decoded).rejects.toMatchObject(refusal(words));
  }

  it.each(steps)('has multi-process elements: %s', async (tag) => {
    const file = withProfile(await samples.png(), withTags([...matrix, 'A2B0', tag]));
    await expectRefused(file, new RegExp(`tag ${tag}.* Convert the image to sRGB`));
  });

  it.each(['jpeg', 'webp', 'avif', 'tiff'] as const)('may be that of a %s', async (format) => {
    const png = withProfile(await samples.png(), withTags([...matrix, 'D2B0']));
    const file = await sharp(png).keepIccProfile().toFormat(format).toBuffer();
    expect((await sharp(file).metadata()).icc).toBeDefined();
    await expectRefused(file, /tag D2B0/);
  });

  it.each(['png', 'tiff'] as const)('is too large, in a %s', async (format) => {
    const empty = withTags([]);
    const profile = (bytes: number) => {
      const padded = Buffer.concat([empty, Buffer.alloc(bytes - empty.length)]);
      padded.writeUInt32BE(bytes, 0);
      return padded;
    };
    const file = async (bytes: number) =>
      sharp(withProfile(await samples.png(), profile(bytes)))
        .keepIccProfile()
        .toFormat(format)
        .toBuffer();
    await expectRefused(await file(maxProfileBytes + 4), /of more than 8 MB/);
    await expect(inspectImage(await file(maxProfileBytes), limits)).resolves.toBeDefined();
  });

  it('is another than one that is damaged: without it the image counts as sRGB', async () => {
    const file = withProfile(await samples.png(), Buffer.alloc(200, 'x'));
    await expect(inspectImage(file, limits)).resolves.toBeDefined();
  });
});
