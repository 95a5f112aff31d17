import { describe, expect, it } from 'vitest';
import { isRgbOutputProfile, maxProfileBytes } from '../../../src/images/icc-profile.ts';
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

describe('a profile into which RGB can be brought', () => {
  it.each(['srgb', 'p3'])('is that of %s', async (name) => {
    const image = await sharp(await picture(8, 8))
      .withIccProfile(name)
      .png()
      .toBuffer();
    const { icc } = await sharp(image).metadata();
    expect(isRgbOutputProfile(icc as Buffer)).toBe(true);
  });

  it.each([
    ['a matrix and curves', withTags(matrix), true],
    ['a table to the device', withTags(['A2B0', 'B2A0']), true],
    ['a table from the device, and a matrix', withTags(['A2B0', ...matrix]), true],
    ['a table from the device only', inputOnlyProfile(), false],
    ['a matrix without a curve', withTags(matrix.slice(1)), false],
    ['another colour space', withTags(['B2A0'], 'CMYK'), false],
    ['no tags', withTags([]), false],
    ['less than a header', Buffer.alloc(40), false],
  ])('may have %s', (_what, profile, expected) => {
    expect(isRgbOutputProfile(profile)).toBe(expected);
  });

  it('is none whose table is cut, whatever its count says', () => {
    const profile = withTags(matrix);
    profile.writeUInt32BE(0xffffffff, 128);
    expect(isRgbOutputProfile(profile)).toBe(true);
    expect(isRgbOutputProfile(profile.subarray(0, 128 + 4 + 5 * 12 + 11))).toBe(false);
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
