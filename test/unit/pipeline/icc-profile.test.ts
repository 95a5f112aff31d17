import { describe, expect, it } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { isRgbOutputProfile } from '../../../src/pipeline/icc-profile.ts';
import { inputOnlyProfile, profileOf } from './icc-profiles.ts';
import { picture } from './run.ts';

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
