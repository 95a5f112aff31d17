/** Code points of colour: HDR is refused, other code points are not. */
import { describe, expect, it } from 'vitest';
import { avifCodePoints } from '../../../src/images/avif-code-points.ts';
import { inspectImage } from '../../../src/images/inspect-image.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { shown, withCicp, withNclx } from './code-point-files.ts';
import { samples } from './samples.ts';

const limits = { maxPixels: 10_000 };
const bt2020 = 9;
const pq = { primaries: bt2020, transfer: 16 };
const hlg = { primaries: bt2020, transfer: 18 };
const sdr = { primaries: bt2020, transfer: 13 };

const tagged = async (format: 'png' | 'avif') =>
  sharp(await samples.png())
    .withIccProfile('p3')
    [format]()
    .toBuffer();

async function expectHdr(file: Buffer, name: string): Promise<void> {
  await expect(inspectImage(file, limits)).rejects.toMatchObject({
    code: 'unsupported_media_type',
    message: expect.stringMatching(
      `^The image is HDR .*coded as ${name}.* Convert the image to sRGB`,
    ),
  });
}

describe.each([
  ['PQ', pq],
  ['HLG', hlg],
] as const)('%s', (name, points) => {
  it('is refused in a PNG', async () => {
    await expectHdr(withCicp(await samples.png(), points), name);
    await expectHdr(withCicp(await samples['16-bit PNG'](), points), name);
  });

  it.each([false, true])('is refused in an AVIF, with long ids: %s', async (long) => {
    await expectHdr(withNclx(await samples.avif(), points, shown, long), name);
  });

  it('is no fault beside a profile', async () => {
    const png = withCicp(await tagged('png'), points);
    expect(await inspectImage(png, limits)).toMatchObject({ format: 'png' });
    const avif = withNclx(await tagged('avif'), points, shown);
    expect(await inspectImage(avif, limits)).toMatchObject({ format: 'avif' });
  });
});

it('other code points are taken', async () => {
  const png = withCicp(await samples.png(), sdr);
  expect(await inspectImage(png, limits)).toMatchObject({ format: 'png' });
  const avif = withNclx(await samples.avif(), sdr, shown);
  expect(avifCodePoints(avif)).toEqual(sdr);
  expect(await inspectImage(avif, limits)).toMatchObject({ format: 'avif' });
});

it('the code points of another item of an AVIF are not those of the image', async () => {
  const translucent = await sharp(await samples['RGBA PNG']())
    .avif()
    .toBuffer();
  const avif = withNclx(translucent, pq, { item: 1, isLinked: false });
  expect(avif.includes('nclx')).toBe(true);
  expect(avifCodePoints(avif)).toBeUndefined();
  expect(await inspectImage(avif, limits)).toMatchObject({ format: 'avif' });
});

it('an AVIF that is cut off says nothing of its light, and a damaged one does no harm', async () => {
  const avif = withNclx(await samples.avif(), pq, shown);
  const metaEnd = avif.indexOf('mdat', 0, 'latin1') - 4;
  for (let length = 0; length < metaEnd; length++) {
    expect(avifCodePoints(avif.subarray(0, length))).toBeUndefined();
  }
  for (let at = 0; at < metaEnd; at++) {
    const damaged = Buffer.from(avif);
    damaged[at] = 0xff;
    expect(() => avifCodePoints(damaged)).not.toThrow();
  }
});
