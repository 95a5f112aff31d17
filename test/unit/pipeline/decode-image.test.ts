import { readFileSync } from 'node:fs';
import zlib from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { type DecodedImage, decodeImage } from '../../../src/pipeline/decode-image.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { gradient, height, samples, width, withPngChunk } from '../images/samples.ts';
import { bytesOf, difference, type FixtureArray, fixturePath, readFixture } from './fixtures.ts';

const decode = (bytes: Uint8Array): Promise<DecodedImage> =>
  decodeImage(bytes, { maxPixels: 1e6 }, new RunControl());

/** Planes in [0,1] → interleaved, 0…peak. */
function interleaved({ rgb }: DecodedImage, peak: number): Float32Array {
  const plane = rgb.width * rgb.height;
  return Float32Array.from(
    { length: 3 * plane },
    (_, i) => peak * (rgb.data[(i % 3) * plane + Math.floor(i / 3)] as number),
  );
}

const raw = { width, height, channels: 3 } as const;

describe('decodeImage', () => {
  it.each(['png', 'lossless WebP', 'tiff', 'LZW TIFF', 'RGBA PNG'] as const)(
    'is exact for a %s',
    async (name) => {
      const decoded = await decode(await samples[name]());
      expect(difference(interleaved(decoded, 255), gradient).max).toBeLessThan(1e-4);
    },
  );

  it.each([
    ['jpeg', 12],
    ['progressive JPEG', 12],
    ['webp', 24],
    ['avif', 16],
    ['palette PNG', 40],
  ] as const)('is close for a %s', async (name, tolerance) => {
    const decoded = await decode(await samples[name]());
    expect(decoded.alpha).toBeUndefined();
    expect(difference(interleaved(decoded, 255), gradient).max).toBeLessThan(tolerance);
  });

  it.each([20, 128, 235])('brings grey %d through CMYK and back as grey', async (level) => {
    const grey = { ...raw, background: { r: level, g: level, b: level } };
    const file = await sharp({ create: grey })
      .toColourspace('cmyk')
      .jpeg({ quality: 95 })
      .toBuffer();
    expect((await sharp(file).metadata()).space).toBe('cmyk');
    const wanted = new Float32Array(gradient.length).fill(level);
    // The black of print is not black, nor its grey quite neutral.
    const tolerance = level < 40 ? 24 : 16;
    expect(difference(interleaved(await decode(file), 255), wanted).max).toBeLessThan(tolerance);
  });

  it('makes three equal planes of grey', async () => {
    const { rgb } = await decode(await samples['grey PNG']());
    const plane = width * height;
    expect(rgb.data.subarray(plane, 2 * plane)).toEqual(rgb.data.subarray(0, plane));
    expect(rgb.data.subarray(2 * plane)).toEqual(rgb.data.subarray(0, plane));
  });

  it.each(['png', 'tiff'] as const)('keeps all 16 bits of a %s', async (format) => {
    const values = Uint16Array.from({ length: 3 * width * height }, (_, i) => (i * 7919) % 65536);
    const file = await sharp(values, { raw })
      .toColourspace('rgb16')
      [format]({ compression: 'lzw' } as object)
      .toBuffer();
    const decoded = await decode(file);
    expect(difference(interleaved(decoded, 65535), values).max).toBeLessThan(0.02);
  });

  it('splits alpha off and leaves the colours as they are stored', async () => {
    const rgba = new Uint8Array(4 * width * height);
    for (let i = 0; i < width * height; i++) {
      rgba.set(gradient.subarray(3 * i, 3 * i + 3), 4 * i);
      rgba[4 * i + 3] = i % 256;
    }
    const file = await sharp(rgba, { raw: { ...raw, channels: 4 } })
      .png()
      .toBuffer();
    const decoded = await decode(file);
    expect(difference(interleaved(decoded, 255), gradient).max).toBeLessThan(1e-4);
    expect(decoded.alpha?.data[200]).toBeCloseTo(200 / 255, 6);
  });

  describe('colour profiles', () => {
    interface Profiled {
      space: string;
      file: string;
      srgb: FixtureArray;
    }
    const cases = readFixture<Profiled[]>('icc.json');

    it.each(cases.map((one) => [one.space, one] as const))('%s → sRGB', async (_, one) => {
      const file = readFileSync(fixturePath(one.file));
      const wanted = bytesOf(one.srgb);
      const eight = interleaved(await decode(file), 255);
      expect(difference(eight, wanted).max).toBeLessThanOrEqual(3);
      // The conversion did something: ignoring the profile is far off.
      const stored = await sharp(file, { ignoreIcc: true }).removeAlpha().raw().toBuffer();
      expect(difference(stored, wanted).max).toBeGreaterThan(20);
    });

    it.each(cases.map((one) => [one.space, one] as const))('%s, 16 bits → sRGB', async (_, one) => {
      // The same colours with 16 bits and the same profile.
      const file = readFileSync(fixturePath(one.file));
      const stored = await sharp(file, { ignoreIcc: true })
        .removeAlpha()
        .raw()
        .toBuffer({ resolveWithObject: true });
      const { icc = Buffer.alloc(0) } = await sharp(file).metadata();
      const { width, height } = stored.info;
      const untagged = await sharp(
        Uint16Array.from(stored.data, (value) => 257 * value),
        {
          raw: { width, height, channels: 3 },
        },
      )
        .toColourspace('rgb16')
        .png()
        .toBuffer();
      const named = Buffer.concat([Buffer.from('icc\0\0', 'latin1'), zlib.deflateSync(icc)]);
      const deep = withPngChunk(untagged, 'iCCP', named);
      const decoded = await decode(deep);
      // Where a channel is clipped at the edge of the gamut, libvips' 16-bit path is a few levels off.
      const { max, psnr } = difference(interleaved(decoded, 255), bytesOf(one.srgb), 255);
      expect(max).toBeLessThan(8);
      expect(psnr).toBeGreaterThan(50);
    });

    it.each([
      ['without a curve', (icc: Buffer) => icc.write('junk', icc.indexOf('rTRC', 128), 'latin1')],
      ['of grey', (icc: Buffer) => icc.write('GRAY', 16, 'latin1')],
    ])('a profile %s is ignored, in 8 bits as in 16', async (_, spoil) => {
      const tagged = sharp(gradient, { raw }).withIccProfile('p3').tiff({ compression: 'none' });
      const file = await tagged.toBuffer();
      const deep = await sharp(file, { ignoreIcc: true })
        .toColourspace('rgb16')
        .keepIccProfile()
        .tiff({ compression: 'none' })
        .toBuffer();
      const stored = await sharp(file, { ignoreIcc: true }).raw().toBuffer();
      for (const one of [file, deep]) {
        const { icc = Buffer.alloc(0) } = await sharp(one).metadata();
        const at = one.indexOf(icc);
        expect(difference(interleaved(await decode(one), 255), stored).max).toBeGreaterThan(10);
        spoil(one.subarray(at, at + icc.length));
        // libvips makes 16 bits of 8 by a shift, so that white is one level less.
        expect(difference(interleaved(await decode(one), 255), stored).max).toBeLessThan(1);
      }
    });
  });
});
