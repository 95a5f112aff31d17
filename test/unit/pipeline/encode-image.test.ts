/** What the output file carries besides the restored pixels. */
import { readFileSync } from 'node:fs';
import zlib from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { type OutputFormat, outputFormats } from '../../../src/jobs/params.ts';
import { software } from '../../../src/package-info.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { withPngChunk, withProfile } from '../images/samples.ts';
import { bundlePath, difference, fixturePath, photoPath } from './fixtures.ts';
import { inputOnlyProfile } from './icc-profiles.ts';
import { loadExactIdentity, loadOnCpu, picture, pixelsOf, run } from './run.ts';

let identity: Model;
beforeAll(async () => {
  identity = await loadOnCpu(bundlePath('identity'));
});
afterAll(() => identity.dispose());

const asStored = { pix: 0, sem: 0, quality: 95 } as const;

describe('the recipe', () => {
  it.each(outputFormats)('is in the EXIF of a %s', async (format) => {
    const dials = { pix: 0.5, sem: 1.25, scale: 2, format, colorfix: 'wavelet' } as const;
    const { image } = await run(await picture(20, 16), identity, dials);
    const { exif } = await sharp(image).metadata();
    const text = exif?.toString('latin1') ?? '';
    expect(text).toContain(software);
    const recipe = /\{"pix".*?\}/.exec(text)?.[0] ?? '';
    expect(JSON.parse(recipe)).toEqual({
      pix: 0.5,
      sem: 1.25,
      scale: 2,
      colorfix: 'wavelet',
      model: 'identity',
      version: '1.0.0',
    });
  });
});

describe('alpha', () => {
  const alphaOf = async (image: Uint8Array) => {
    const { data, channels } = await pixelsOf(image);
    expect(channels).toBe(4);
    return data.filter((_, i) => i % 4 === 3);
  };

  it('stays what it is where it is the same everywhere, 8 or 16 bits', async () => {
    const even = sharp(await picture(23, 9)).ensureAlpha(0.5);
    const deep = sharp(await even.clone().png().toBuffer()).toColourspace('rgb16');
    for (const lowRes of [await even.png().toBuffer(), await deep.png().toBuffer()]) {
      const alpha = await alphaOf((await run(lowRes, identity, { ...asStored, scale: 2.5 })).image);
      expect(new Set(alpha).size).toBe(1);
      expect(alpha[0]).toBeGreaterThanOrEqual(127);
      expect(alpha[0]).toBeLessThanOrEqual(128);
    }
  });

  it('does not change the colours: half-transparent red is red', async () => {
    const background = { r: 200, g: 30, b: 10, alpha: 0.2 };
    const create = { width: 12, height: 8, channels: 4, background } as const;
    const lowRes = await sharp({ create }).png().toBuffer();
    const { data } = await pixelsOf((await run(lowRes, identity, asStored)).image);
    expect([...data.subarray(0, 4)]).toEqual([200, 30, 10, 51]);
  });

  it('becomes white in a JPEG, which has none', async () => {
    const background = { r: 0, g: 0, b: 0, alpha: 0 };
    const create = { width: 12, height: 8, channels: 4, background } as const;
    const lowRes = await sharp({ create }).png().toBuffer();
    const { image } = await run(lowRes, identity, { ...asStored, format: 'jpeg' });
    const { data, channels } = await pixelsOf(image);
    expect(channels).toBe(3);
    expect(Math.min(...data)).toBeGreaterThan(250);
  });
});

describe('WebP', () => {
  it('keeps the colour of edges better than halved chroma alone would', async () => {
    // Red and blue squares that do not lie on the grid of the halved chroma.
    const [size, square] = [96, 7];
    const checker = Uint8Array.from({ length: 3 * size * size }, (_, i) => {
      const [x, y] = [Math.floor(i / 3) % size, Math.floor(i / 3 / size)];
      const isRed = (Math.floor(x / square) + Math.floor(y / square)) % 2 === 0;
      return i % 3 === (isRed ? 0 : 2) ? 230 : 20;
    });
    const raw = { width: size, height: size, channels: 3 } as const;
    const lowRes = await sharp(checker, { raw }).png().toBuffer();
    const psnr = async (file: Uint8Array) =>
      difference((await pixelsOf(file)).data, checker, 255).psnr;
    const halved = await psnr(await sharp(lowRes).webp({ quality: 90 }).toBuffer());
    const params = { ...asStored, quality: 90, scale: 1, format: 'webp' } as const;
    const { image } = await run(lowRes, identity, params);
    expect(await psnr(image)).toBeGreaterThan(halved + 1);
  });
});

describe('metadata=keep', () => {
  const xmp = (orientation: number) =>
    `<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="${orientation}"/></rdf:RDF></x:xmpmeta><?xpacket end="w"?>`;

  const camera = async () =>
    sharp(readFileSync(photoPath('rocket-160x106.png')))
      .withIccProfile('p3')
      .withExif({ IFD0: { Copyright: 'A. Photographer', Make: 'Camera' } })
      .withMetadata({ orientation: 6 })
      .withIccProfile('p3')
      .withXmp(xmp(6))
      .jpeg({ quality: 95 })
      .toBuffer();

  it.each(outputFormats)('%s: profile, EXIF and XMP are the input’s, upright', async (format) => {
    const lowRes = await camera();
    const params = { ...asStored, scale: 2, format, metadata: 'keep' } as const;
    const { image, ...result } = await run(lowRes, identity, params);
    const before = await sharp(lowRes).metadata();
    const after = await sharp(image).metadata();
    expect(before.orientation).toBe(6);
    expect([result.width, result.height]).toEqual([212, 320]);
    expect([after.width, after.height]).toEqual([212, 320]);
    expect(after.orientation ?? 1).toBe(1);
    expect(after.icc?.equals(before.icc ?? Buffer.alloc(0))).toBe(true);
    expect(after.exif?.toString('latin1')).toContain('A. Photographer');
    expect(after.exif?.toString('latin1')).toContain(software);
    expect(after.xmp?.toString()).toContain('tiff:Orientation="1"');
  });

  const shown = (image: Uint8Array) => sharp(image).toColourspace('srgb').raw().toBuffer();

  it.each([
    ['png', 45],
    ['jpeg', 30],
    ['webp', 28],
    ['avif', 30],
  ] as [OutputFormat, number][])('%s: shows the same colours as without', async (format, least) => {
    const lowRes = await camera();
    const show = async (metadata: 'none' | 'keep') =>
      shown((await run(lowRes, identity, { ...asStored, format, metadata })).image);
    expect(difference(await show('keep'), await show('none'), 255).psnr).toBeGreaterThan(least);
  });

  it('drops a profile that images cannot be written with, and its colours stay right', async () => {
    const profile = inputOnlyProfile();
    const named = Buffer.concat([Buffer.from('icc\0\0', 'latin1'), zlib.deflateSync(profile)]);
    const copyright = await sharp(await picture(40, 30))
      .withExif({ IFD0: { Copyright: 'A. Photographer' } })
      .png()
      .toBuffer();
    const lowRes = withPngChunk(copyright, 'iCCP', named);
    // The profile is one: it changes colours by a lot.
    const stored = (await pixelsOf(lowRes)).data;
    expect(difference(await shown(lowRes), stored).max).toBeGreaterThan(30);
    const params = { ...asStored, scale: 1, metadata: 'keep' } as const;
    const { image } = await run(lowRes, await loadExactIdentity(), params);
    expect(difference(await shown(image), await shown(lowRes)).max).toBeLessThanOrEqual(1);
    const { icc, exif } = await sharp(image).metadata();
    expect(icc).toBeUndefined();
    expect(exif?.toString('latin1')).toContain('A. Photographer');
  });

  it('drops a profile of linear light, and shadows keep their levels', async () => {
    // The profile that sharp attaches to sRGB, with its three curves emptied: what has no sample is the identity.
    const create = { width: 8, height: 8, channels: 3, background: 'grey' } as const;
    const tagged = await sharp({ create }).withIccProfile('srgb').png().toBuffer();
    const { icc = Buffer.alloc(0) } = await sharp(tagged).metadata();
    for (const name of ['rTRC', 'gTRC', 'bTRC']) {
      const entry = icc.indexOf(name, 128);
      const at = icc.readUInt32BE(entry + 4);
      icc.write('curv\0\0\0\0\0\0\0\0', at, 'latin1');
      icc.writeUInt32BE(12, entry + 8);
    }
    // Light in 16 bits that is the levels 0 to 31 of sRGB.
    const light = Uint16Array.from({ length: 3 * 32 * 16 }, (_, i) => {
      const value = (Math.floor(i / 3) % 32) / 255;
      return 65_535 * (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    });
    const dark = await sharp(light, { raw: { width: 32, height: 16, channels: 3 } })
      .toColourspace('rgb16')
      .png()
      .toBuffer();
    const lowRes = withProfile(dark, icc);
    const params = { ...asStored, scale: 1, metadata: 'keep' } as const;
    const { image } = await run(lowRes, await loadExactIdentity(), params);
    expect((await sharp(image).metadata()).icc).toBeUndefined();
    expect(new Set(await shown(image)).size).toBeGreaterThan(28);
  });

  it('none: nothing of the input is left', async () => {
    const { image } = await run(await camera(), identity, asStored);
    const { icc, exif, xmp } = await sharp(image).metadata();
    expect([icc, xmp]).toEqual([undefined, undefined]);
    expect(exif?.toString('latin1')).not.toContain('A. Photographer');
  });

  it('keeps alpha and its colours beside a profile', async () => {
    const file = readFileSync(fixturePath('icc-adobe-rgb.png'));
    const translucent = await sharp(file)
      .keepIccProfile()
      .removeAlpha()
      .ensureAlpha(0.1)
      .png()
      .toBuffer();
    const { image } = await run(translucent, await loadExactIdentity(), {
      ...asStored,
      scale: 1,
      metadata: 'keep',
    });
    const [before, after] = [await pixelsOf(translucent), await pixelsOf(image)];
    expect(after.channels).toBe(4);
    // To sRGB and back: colours outside its gamut come back at its edge, alpha as it was.
    const alpha = (data: Uint8Array) => data.filter((_, i) => i % 4 === 3);
    expect(alpha(after.data)).toEqual(alpha(before.data));
    const { icc } = await sharp(image).metadata();
    expect(icc).toEqual((await sharp(file).metadata()).icc);
  });

  it('drops a profile that does not fit RGB, and survives damaged EXIF', async () => {
    const cmyk = await sharp(await picture(16, 12))
      .toColourspace('cmyk')
      .withIccProfile('cmyk')
      .jpeg()
      .toBuffer();
    const kept = await run(cmyk, identity, { ...asStored, metadata: 'keep' });
    const metadata = await sharp(kept.image).metadata();
    expect([metadata.space, metadata.icc]).toEqual(['srgb', undefined]);

    const jpeg = await sharp(await picture(16, 12))
      .withExif({ IFD0: { Make: 'Camera' } })
      .jpeg()
      .toBuffer();
    const at = jpeg.indexOf('Exif\0\0', 0, 'latin1') + 6;
    for (const junk of [Buffer.alloc(40, 0xff), Buffer.from('II*\0\xff\xff\xff\x7f', 'latin1')]) {
      const damaged = Buffer.from(jpeg);
      damaged.set(junk, at);
      const result = await run(damaged, identity, { ...asStored, metadata: 'keep' });
      expect((await pixelsOf(result.image)).width).toBe(64);
    }
  });
});
