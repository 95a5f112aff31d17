import { readFileSync } from 'node:fs';
import zlib from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { isRgbOutputProfile } from '../../../src/images/icc-profile.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { type DecodedImage, decodeImage } from '../../../src/pipeline/decode-image.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { shown, withCicp, withNclx } from '../images/code-point-files.ts';
import { gradient, height, samples, width, withPngChunk, withProfile } from '../images/samples.ts';
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

  describe('code points of colour', () => {
    const displayP3 = { primaries: 12, transfer: 13 };
    const sRgb = { primaries: 1, transfer: 13 };

    interface Stored {
      /** Of a PNG of three channels. */
      png: Buffer;
      profile: Buffer;
      depth: 8 | 16;
    }

    /** The chart of the fixture as it is stored, in Display P3, and the profile that says so. */
    async function stored(depth: 8 | 16): Promise<Stored> {
      const file = readFileSync(fixturePath('icc-display-p3.png'));
      const { icc: profile = Buffer.alloc(0) } = await sharp(file).metadata();
      const space = depth === 16 ? 'rgb16' : 'srgb';
      const untagged = sharp(file, { ignoreIcc: true }).toColourspace(space);
      return { png: await untagged.png().toBuffer(), profile, depth };
    }

    /** The largest difference of two decoded images, in 8-bit levels. */
    async function apart(one: Uint8Array, other: Uint8Array): Promise<number> {
      const [a, b] = [await decode(one), await decode(other)];
      return difference(interleaved(a, 255), interleaved(b, 255)).max;
    }

    it.each([8, 16] as const)('are read in a PNG of %d bits as the profile is', async (depth) => {
      const { png, profile } = await stored(depth);
      const file = withCicp(png, displayP3);
      expect(await apart(file, withProfile(png, profile))).toBeLessThanOrEqual(1);
      expect(await apart(file, png)).toBeGreaterThan(20);
    });

    it.each([8, 10] as const)(
      'are read in an AVIF of %d bits as the profile is',
      async (bitdepth) => {
        const { png, profile } = await stored(bitdepth === 8 ? 8 : 16);
        const options = { quality: 100, chromaSubsampling: '4:4:4', bitdepth } as const;
        const plain = await sharp(png).avif(options).toBuffer();
        const file = withNclx(plain, displayP3, shown);
        const tagged = sharp(withProfile(png, profile)).keepIccProfile().avif(options);
        expect(await apart(file, await tagged.toBuffer())).toBeLessThanOrEqual(1);
        expect(await apart(file, plain)).toBeGreaterThan(20);
      },
    );

    it.each([1, 6, 13, 14, 15, 2])(
      'BT.2020 with the transfer %d becomes sRGB',
      async (transfer) => {
        // From linear BT.709 (ITU-R BT.2087, annex 2).
        const toBt2020 = [
          [0.6274, 0.3293, 0.0433],
          [0.0691, 0.9195, 0.0114],
          [0.0164, 0.088, 0.8956],
        ];
        const light = (level: number) =>
          level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4;
        const level = (x: number) => (x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055);
        // Muted, so that a level of one channel is hardly more of another.
        const muted = gradient.map((value) => 80 + value / 2);
        const wide = Uint8ClampedArray.from(muted, (_, i) => {
          const row = toBt2020[i % 3] ?? [];
          const pixel = muted.subarray(i - (i % 3), i - (i % 3) + 3);
          const sum = row.reduce((all, part, c) => all + part * light((pixel[c] ?? 0) / 255), 0);
          return 255 * level(sum);
        });
        const png = await sharp(wide, { raw }).png().toBuffer();
        const decoded = await decode(withCicp(png, { primaries: 9, transfer }));
        expect(difference(interleaved(decoded, 255), muted).max).toBeLessThanOrEqual(2);
        expect(difference(interleaved(await decode(png), 255), muted).max).toBeGreaterThan(20);
      },
    );

    it('come before the profile of a PNG, unless they are not known', async () => {
      const { png, profile } = await stored(8);
      const tagged = withProfile(png, profile);
      expect(await apart(withCicp(tagged, sRgb), png)).toBe(0);
      expect(await apart(withCicp(tagged, { primaries: 22, transfer: 13 }), tagged)).toBe(0);
      expect(await apart(withCicp(tagged, { primaries: 12, transfer: 16 }), tagged)).toBe(0);
    });

    it('come after the profile of an AVIF', async () => {
      const { png, profile } = await stored(8);
      const tagged = await sharp(withProfile(png, profile)).keepIccProfile().avif().toBuffer();
      expect(await apart(withNclx(tagged, sRgb, shown), tagged)).toBe(0);
    });

    it.each([
      ['sRGB', sRgb],
      ['other primaries', { primaries: 22, transfer: 13 }],
      ['another curve', { primaries: 12, transfer: 8 }],
    ])('of %s change nothing', async (_, points) => {
      const { png } = await stored(8);
      expect(await apart(withCicp(png, points), png)).toBe(0);
      const avif = await sharp(png).avif().toBuffer();
      expect(await apart(withNclx(avif, points, shown), avif)).toBe(0);
    });

    it('leave an image upright, its alpha as it is and its grey grey', async () => {
      const { png } = await stored(8);
      const turned = await sharp(png)
        .ensureAlpha(0.4)
        .withMetadata({ orientation: 6 })
        .png()
        .toBuffer();
      const plain = await decode(turned);
      const decoded = await decode(withCicp(turned, displayP3));
      const size = { width: decoded.rgb.width, height: decoded.rgb.height };
      expect(size).toEqual({ width: 12, height: 16 });
      expect(decoded.inspected).toEqual(plain.inspected);
      expect(decoded.alpha).toEqual(plain.alpha);
      for (const name of ['grey PNG', '16-bit grey PNG'] as const) {
        const grey = await samples[name]();
        expect(await apart(withCicp(grey, displayP3), grey)).toBeLessThanOrEqual(1);
      }
    });

    it('are the profile that metadata=keep writes', async () => {
      const { png } = await stored(8);
      const { profile = Buffer.alloc(0) } = (await decode(withCicp(png, displayP3))).metadata;
      expect(isRgbOutputProfile(profile)).toBe(true);
      expect(await apart(withProfile(png, profile), withCicp(png, displayP3))).toBe(0);
      const tagged = withProfile(png, profile);
      expect((await decode(withCicp(tagged, sRgb))).metadata.profile).toBeUndefined();
    });
  });
});
