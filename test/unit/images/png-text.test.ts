/** What text and profiles of a PNG cost, and what is left of them. */
import zlib from 'node:zlib';
import { describe, expect, it } from 'vitest';
import { inspectImage, readHeader } from '../../../src/images/inspect-image.ts';
import { withoutText } from '../../../src/images/png-text.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { decodeImage } from '../../../src/pipeline/decode-image.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { pngChunk, samples, withProfile } from './samples.ts';

const limits = { maxPixels: 10_000 };
const latin1 = (text: string) => Buffer.from(text, 'latin1');
const deflated = (data: string | Buffer) => zlib.deflateSync(data, { level: 9 });

const tEXt = (keyword: string, text: string) => pngChunk('tEXt', latin1(`${keyword}\0${text}`));
const zTXt = (keyword: string, data: Buffer) =>
  pngChunk('zTXt', Buffer.concat([latin1(`${keyword}\0\0`), data]));
const iTXt = (keyword: string, text: string) =>
  pngChunk('iTXt', latin1(`${keyword}\0\0\0en\0keyword\0${text}`));
const compressedITXt = (keyword: string, data: Buffer) =>
  pngChunk('iTXt', Buffer.concat([latin1(`${keyword}\0\x01\0en\0keyword\0`), data]));

const xmp = 'XML:com.adobe.xmp';
/** How a program that knows its chunks may write XMP. */
const xmpChunks: Record<string, (packet: string) => Buffer> = {
  'a plain iTXt': (packet) => iTXt(xmp, packet),
  'a compressed iTXt': (packet) => compressedITXt(xmp, deflated(packet)),
  'a zTXt': (packet) => zTXt(xmp, deflated(packet)),
  'a tEXt': (packet) => tEXt(xmp, packet),
};

const headBytes = 33;
const endBytes = 12;
const behindHead = (png: Buffer, ...chunks: Buffer[]) =>
  Buffer.concat([png.subarray(0, headBytes), ...chunks, png.subarray(headBytes)]);
const beforeEnd = (png: Buffer, ...chunks: Buffer[]) =>
  Buffer.concat([png.subarray(0, -endBytes), ...chunks, png.subarray(-endBytes)]);

/** What the decoder reads of XMP. */
const xmpOf = async (png: Buffer): Promise<string | undefined> =>
  (await readHeader(png, limits)).metadata.xmp?.toString();

describe('text in a PNG', () => {
  const large = [zTXt('Large', deflated(Buffer.alloc(65_537, 'a')))];
  const texts = [
    ...large,
    tEXt('Title', 'Cat'),
    zTXt('Comment', deflated('words')),
    iTXt('Author', 'Zoe'),
    compressedITXt('Author', deflated('Zoe')),
    zTXt('Broken', latin1('not deflated')),
    pngChunk('iTXt', latin1('no end of the keyword')),
  ];

  it('is cut out wherever it is, and nothing else', async () => {
    const png = await samples['tagged PNG']();
    const plain = Buffer.from(await withoutText(png));
    expect(await withoutText(beforeEnd(behindHead(png, ...texts), ...texts))).toEqual(plain);
    const inTurn = texts.flatMap((text) => [text, pngChunk('puRe', Buffer.alloc(3))]);
    const left = texts.map(() => pngChunk('puRe', Buffer.alloc(3)));
    expect(await withoutText(behindHead(plain, ...inTurn))).toEqual(behindHead(plain, ...left));
  });

  it('costs no copy where there is none, or what programs write', async () => {
    const small = Array.from({ length: 10 }, () => texts.slice(1, 6)).flat();
    for (const name of ['png', 'palette PNG', 'tagged PNG', '16-bit PNG'] as const) {
      const png = await samples[name]();
      expect(await withoutText(png)).toBe(png);
      const written = beforeEnd(behindHead(png, ...small.slice(1)), ...small.slice(0, 1));
      expect(await withoutText(written)).toBe(written);
    }
  });

  it.each([
    ['one that is large', [tEXt('Large', 'a'.repeat(65_536))]],
    ['one that is large once it is inflated', large],
    ['many', Array.from({ length: 51 }, (_, i) => tEXt(`k${i}`, 'few'))],
  ])('is cut out for %s', async (_, chunks) => {
    const png = await samples.png();
    expect(await withoutText(behindHead(png, ...texts.slice(1, 2), ...chunks))).toEqual(png);
  });

  it('is not seen by the decoder', async () => {
    const png = behindHead(await samples.png(), ...texts);
    expect((await sharp(png).metadata()).comments?.length).toBeGreaterThan(2);
    const { metadata, bytes } = await readHeader(png, limits);
    expect(metadata.comments).toBeUndefined();
    expect(bytes).toEqual(await samples.png());
  });

  it.each(Object.entries(xmpChunks))('may be XMP, in %s', async (_, chunk) => {
    const png = await samples.png();
    expect(await xmpOf(behindHead(png, tEXt('Title', 'Cat'), chunk('<a/>')))).toBe('<a/>');
  });

  it('is XMP once, and in front of the pixels', async () => {
    const png = await samples.png();
    const packets = [...Object.values(xmpChunks).map((chunk) => chunk('<b/>')), ...large];
    const one = behindHead(png, iTXt(xmp, '<a/>'));
    expect(await withoutText(behindHead(png, iTXt(xmp, '<a/>'), ...packets))).toEqual(one);
    expect(await withoutText(beforeEnd(png, ...packets))).toEqual(png);
  });

  it('is no XMP where a compressed packet is larger than 1 MB', async () => {
    const png = await samples.png();
    for (const name of ['a compressed iTXt', 'a zTXt'] as const) {
      const chunk = xmpChunks[name] ?? expect.fail(name);
      expect(await xmpOf(behindHead(png, chunk(' '.repeat(1e6))))).toHaveLength(1e6);
      expect(await xmpOf(behindHead(png, chunk(' '.repeat(1e6 + 1))))).toBeUndefined();
    }
    expect(await xmpOf(behindHead(png, iTXt(xmp, ' '.repeat(1e6 + 1))))).toHaveLength(1e6 + 1);
  });

  it('costs no memory: 100 kB that would be 200 MB', async () => {
    const bomb = deflated(Buffer.alloc(10e6, 'a'));
    const bombs = Array.from({ length: 20 }, (_, i) => zTXt(`k${i}`, bomb));
    const file = behindHead(await samples.png(), ...bombs);
    const peakBytes = () => 1024 * process.resourceUsage().maxRSS;
    const before = peakBytes();
    await inspectImage(file, limits);
    await decodeImage(file, limits, new RunControl());
    expect(peakBytes() - before).toBeLessThan(100e6);
  });
});

it('a PNG has one colour profile', async () => {
  const png = await samples.png();
  const [first, second] = [Buffer.alloc(200, 'a'), Buffer.alloc(70_000, 'b')];
  expect(await withoutText(withProfile(withProfile(png, second), first))).toEqual(
    withProfile(png, first),
  );
});

it.each([8e6 + 1, 60e6])(
  'a profile of %d bytes is refused before libpng inflates it',
  async (bytes) => {
    const file = withProfile(await samples.png(), Buffer.alloc(bytes));
    await expect(withoutText(file)).rejects.toMatchObject({ code: 'unsupported_media_type' });
  },
);

it('a damaged PNG is left to the decoder', async () => {
  const png = behindHead(await samples.png(), tEXt('Title', 'Cat'));
  for (let length = 8; length < png.length; length += 1) {
    const cut = Buffer.from(await withoutText(png.subarray(0, length)));
    expect(cut.length).toBeLessThanOrEqual(length);
  }
  const endless = Buffer.from(await samples.png());
  endless.writeUInt32BE(0xffffffff, headBytes);
  expect(await withoutText(endless)).toBe(endless);
});
