import { describe, expect, it } from 'vitest';
import { inspectImage } from '../../../src/images/inspect-image.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { animated, height, notAllowed, samples, tiffOfPages, width } from './samples.ts';

const limits = { maxPixels: 10_000 };
const named = <T>(record: Record<string, T>) => Object.entries(record);

describe('inspectImage', () => {
  it.each(named(samples))('takes a %s', async (name, make) => {
    const inspected = await inspectImage(await make(), limits);
    expect(inspected).toMatchObject({ width, height });
    expect(inspected.contentType).toBe(`image/${inspected.format}`);
    expect(name.toLowerCase()).toContain(inspected.format);
  });

  it('counts EXIF orientation into the size', async () => {
    const jpeg = await sharp(await samples.png())
      .withMetadata({ orientation: 6 })
      .jpeg()
      .toBuffer();
    expect(await inspectImage(jpeg, limits)).toMatchObject({ width: height, height: width });
  });

  it.each(named(notAllowed))('refuses %s as unsupported_media_type', async (_, make) => {
    const refused = inspectImage(await make(), limits);
    await expect(refused).rejects.toMatchObject({ code: 'unsupported_media_type' });
    await expect(refused).rejects.toThrow(
      'Allowed are PNG, JPEG, WebP, AVIF and single-page TIFF.',
    );
  });

  it.each([
    ['heic', 'mif1heic'],
    ['mif1', 'mif1heix'],
    ['msf1', 'hevcmsf1'],
  ])('says what a HEIC of the brand %s is', async (major, compatible) => {
    const box = `ftyp${major}\0\0\0\0${compatible}`;
    const file = Buffer.concat([Buffer.of(0, 0, 0, 4 + box.length), Buffer.from(box)]);
    await expect(inspectImage(file, limits)).rejects.toMatchObject({
      code: 'unsupported_media_type',
      message: expect.stringMatching(
        /^This is HEIC, as iPhones save it: convert it to JPEG first\./,
      ),
    });
  });

  it('takes an AVIF that names the brand of all HEIF images too', async () => {
    const avif = await samples.avif();
    expect(avif.subarray(0, 64).toString('latin1')).toContain('mif1');
    expect(await inspectImage(avif, limits)).toMatchObject({ format: 'avif' });
  });

  it.each(named(animated))('refuses an %s as animated_image', async (_, make) => {
    const refused = inspectImage(await make(), limits);
    await expect(refused).rejects.toMatchObject({ code: 'animated_image' });
    await expect(refused).rejects.toThrow('a single page or frame');
  });

  it.each([
    ['classic', {}, 8],
    ['big', { bigtiff: true }, 12],
  ] as const)('refuses YCbCr in a %s TIFF, unless it is JPEG', async (_, options, valueAt) => {
    const image = sharp(await samples.png());
    const tiff = await image.tiff({ compression: 'lzw', ...options }).toBuffer();
    expect(await inspectImage(tiff, limits)).toMatchObject({ format: 'tiff' });
    // PhotometricInterpretation, a SHORT: 2 is RGB, 6 YCbCr.
    const entry = tiff.indexOf(Buffer.of(0x06, 0x01, 0x03, 0x00));
    expect(tiff.readUInt16LE(entry + valueAt)).toBe(2);
    tiff.writeUInt16LE(6, entry + valueAt);
    const refused = inspectImage(tiff, limits);
    await expect(refused).rejects.toMatchObject({ code: 'unsupported_media_type' });
    await expect(refused).rejects.toThrow('Save it as RGB.');
    const jpeg = await image.tiff({ compression: 'jpeg', ...options }).toBuffer();
    expect(await inspectImage(jpeg, limits)).toMatchObject({ format: 'tiff' });
  });

  it('takes a TIFF of one page, written the same way', async () => {
    expect(await inspectImage(tiffOfPages(1), limits)).toMatchObject({ format: 'tiff', width: 1 });
  });

  it('refuses samples of 32 bits', async () => {
    const refused = inspectImage(tiffOfPages(1, 32), limits);
    await expect(refused).rejects.toMatchObject({ code: 'unsupported_media_type' });
    await expect(refused).rejects.toThrow('8 or 16 bits per channel are allowed');
  });

  it('refuses too many pixels before it decodes one', async () => {
    const refused = inspectImage(await samples.png(), { maxPixels: width * height - 1 });
    await expect(refused).rejects.toMatchObject({ code: 'too_many_pixels' });
    await expect(refused).rejects.toThrow(
      `The image is ${width} × ${height} pixels, which exceeds the limit of ${width * height - 1} pixels (MAX_INPUT_PIXELS).`,
    );
    await expect(
      inspectImage(await samples.png(), { maxPixels: width * height }),
    ).resolves.toBeDefined();
  });

  it('asks of the upright size before it decodes', async () => {
    const jpeg = await sharp(await samples.png())
      .withMetadata({ orientation: 6 })
      .jpeg()
      .toBuffer();
    const cut = jpeg.subarray(0, -60);
    const sizes: unknown[] = [];
    const admitSize = (size: unknown) => {
      sizes.push(size);
      throw new Error('not this size');
    };
    await expect(inspectImage(cut, { ...limits, admitSize })).rejects.toThrow('not this size');
    expect(sizes).toEqual([{ width: height, height: width }]);
    await expect(inspectImage(cut, limits)).rejects.toMatchObject({ code: 'corrupt_image' });
  });

  it('refuses a bomb of pixels from its header, quickly and without the memory', async () => {
    // 60,000 × 60,000 pixels of one colour in about half a megabyte would be 10 GB as samples.
    const bomb = await samples.png();
    bomb.writeUInt32BE(60_000, 16);
    bomb.writeUInt32BE(60_000, 20);
    // The header's checksum is wrong now: either fault is a refusal without decoding.
    const refused = inspectImage(bomb, limits);
    await expect(refused).rejects.toMatchObject({
      code: expect.stringMatching(/^(too_many_pixels|corrupt_image)$/),
    });
    const real = await sharp({
      create: { width: 9000, height: 9000, channels: 3, background: 'red' },
    })
      .png({ compressionLevel: 9 })
      .toBuffer();
    const memory = process.memoryUsage().rss;
    await expect(inspectImage(real, limits)).rejects.toMatchObject({ code: 'too_many_pixels' });
    expect(process.memoryUsage().rss - memory).toBeLessThan(100e6);
  });

  it.each(named(samples))('sees that a %s is truncated, wherever', async (_, make) => {
    const whole = await make();
    for (let part = 0; part < 20; part++) {
      // The last chunk of a PNG carries no pixels, so losing some of its 12 bytes is no damage.
      const cut = whole.subarray(0, Math.floor((part / 20) * (whole.length - 13)));
      await expect(
        inspectImage(cut, limits),
        `${cut.length} of ${whole.length}`,
      ).rejects.toMatchObject({
        code: expect.stringMatching(/^(corrupt_image|unsupported_media_type)$/),
      });
    }
  });

  it('answers damaged files with a problem of the catalogue, whatever the damage', async () => {
    let state = 1;
    const random = () => {
      state = (state * 48271) % 2147483647;
      return state / 2147483647;
    };
    for (const make of Object.values(samples)) {
      const whole = await make();
      for (let round = 0; round < 15; round++) {
        const damaged = Buffer.from(whole);
        for (let i = 0; i < 4; i++) {
          const at = Math.floor(random() * damaged.length);
          damaged[at] = Math.floor(random() * 256);
        }
        const verdict = await inspectImage(damaged, limits).catch(
          (error: { code: string }) => error.code,
        );
        if (typeof verdict === 'string') {
          expect(verdict).toMatch(
            /^(corrupt_image|unsupported_media_type|too_many_pixels|animated_image)$/,
          );
        }
      }
    }
  });
});
