/** What scanners and cameras write into a TIFF against its specification, and what is damage still. */
import { describe, expect, it } from 'vitest';
import { inspectImage } from '../../../src/images/inspect-image.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { withTidyDirectory } from '../../../src/images/tiff-tidy.ts';
import { decodeImage } from '../../../src/pipeline/decode-image.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { gradient, height, samples, width } from './samples.ts';

const limits = { maxPixels: 10_000 };

type Entry = readonly [tag: number, type: number, count: number, data: Buffer | number];
const model = 272;
const copyright = 33432;
const text = (tag: number, words: string): Entry => [
  tag,
  2,
  words.length,
  Buffer.from(words, 'latin1'),
];

interface Kind {
  big: boolean;
  little: boolean;
}
const kinds: Kind[] = [
  { big: false, little: true },
  { big: false, little: false },
  { big: true, little: true },
  { big: true, little: false },
];

/** More entries, and the gradient, uncompressed in one strip at the end (TIFF 6.0, section 2; BigTIFF). */
function tiff(
  more: readonly Entry[],
  { big, little }: Kind = { big: false, little: true },
  order: (entries: Entry[]) => Entry[] = (entries) => entries.toSorted(([a], [b]) => a - b),
): Buffer {
  const bytes = (value: number, size: number): Buffer => {
    const buffer = Buffer.alloc(size);
    if (little) buffer.writeUIntLE(value, 0, Math.min(size, 6));
    else buffer.writeUIntBE(value, Math.max(0, size - 6), Math.min(size, 6));
    return buffer;
  };
  const long = (tag: number, value: number): Entry => [tag, 4, 1, bytes(value, 4)];
  const entries = order([
    long(256, width),
    long(257, height),
    [258, 3, 3, Buffer.concat([8, 8, 8].map((bits) => bytes(bits, 2)))],
    [259, 3, 1, bytes(1, 2)],
    [262, 3, 1, bytes(2, 2)],
    [273, 4, 1, -1],
    [277, 3, 1, bytes(3, 2)],
    long(278, height),
    long(279, gradient.length),
    ...more,
  ]);
  const [place, head, entryBytes] = big ? [8, 16, 20] : [4, 8, 12];
  const countBytes = big ? 8 : 2;
  const behind: Buffer[] = [];
  let end = head + countBytes + entryBytes * entries.length + place;
  const sizes = entries.map(([, , , data]) => (typeof data === 'number' ? 0 : data.length));
  const pixelsAt = sizes.reduce((sum, size) => sum + (size > place ? size : 0), end);
  const directory = entries.map(([tag, type, count, data]) => {
    const value = Buffer.alloc(place);
    if (typeof data === 'number') bytes(pixelsAt, 4).copy(value);
    else if (data.length <= place) data.copy(value);
    else {
      bytes(end, place).copy(value);
      behind.push(data);
      end += data.length;
    }
    return Buffer.concat([bytes(tag, 2), bytes(type, 2), bytes(count, place), value]);
  });
  return Buffer.concat([
    Buffer.from(little ? 'II' : 'MM'),
    bytes(big ? 43 : 42, 2),
    ...(big ? [bytes(8, 2), bytes(0, 2)] : []),
    bytes(head, place),
    bytes(entries.length, countBytes),
    ...directory,
    Buffer.alloc(place),
    ...behind,
    gradient,
  ]);
}

async function expectReadable(file: Buffer): Promise<void> {
  const stored = Buffer.from(file);
  await expect(inspectImage(file, limits)).resolves.toMatchObject({ width, height });
  const { rgb } = await decodeImage(file, limits, new RunControl());
  const plane = width * height;
  for (let i = 0; i < gradient.length; i += 97) {
    const value = rgb.data[(i % 3) * plane + Math.floor(i / 3)] ?? Number.NaN;
    expect(255 * value).toBeCloseTo(gradient[i] ?? Number.NaN, 3);
  }
  expect(file).toEqual(stored);
}

describe.each(kinds)('a TIFF (big: $big, little-endian: $little)', (kind) => {
  it.each([
    ['a text that is padded', [text(model, 'Scan\0\0\0\0\0\0')]],
    ['a text that is not ended', [text(copyright, 'A. Photographer')]],
    ['a short one', [text(copyright, 'abc')]],
    ['an empty one', [text(model, '')]],
    ['a long one', [text(model, 'x'.repeat(70_000))]],
    ['both', [text(model, 'Scan\0\0\0\0\0\0'), text(copyright, 'A. Photographer')]],
  ])('is read with %s', async (_, entries) => {
    await expectReadable(tiff(entries, kind));
  });

  it('is read with its tags in any order', async () => {
    await expectReadable(tiff([text(model, 'Scan\0')], kind, (entries) => entries.toReversed()));
    const awry = [text(copyright, 'A. Photographer'), text(model, 'Scan\0\0')];
    await expectReadable(tiff(awry, kind, (entries) => entries));
  });

  it('costs no copy where nothing is awry, and no search of many texts', async () => {
    const file = tiff([text(model, 'Scan\0'), text(copyright, 'Ida\0')], kind);
    expect(withTidyDirectory(file)).toBe(file);
    const many = (count: number) =>
      tiff(
        Array.from({ length: count }, (_, i) => text(60_000 + i, 'a long text\0')),
        kind,
      );
    const [few, more] = [many(100), many(101)];
    expect(withTidyDirectory(few)).toBe(few);
    expect(withTidyDirectory(more)).not.toBe(more);
    await expectReadable(more);
  });
});

it('the names of inks stay: libtiff counts them', async () => {
  const inks = text(333, 'Red\0Green\0Blue\0');
  const plain = tiff([inks]);
  expect(withTidyDirectory(plain)).toBe(plain);
  const mended = Buffer.from(withTidyDirectory(tiff([inks, text(model, 'Scan')])));
  expect(mended.includes('Green')).toBe(true);
});

describe('damage is refused', () => {
  it('a text that reaches out of the file', async () => {
    const file = tiff([[model, 2, 1_000_000, Buffer.from('Scan\0')]]);
    await expect(inspectImage(file, limits)).rejects.toMatchObject({ code: 'corrupt_image' });
  });

  it('pixels that end early, beside a text that is mended', async () => {
    const file = tiff([text(model, 'Scan\0\0\0')]);
    for (const missing of [1, 100, gradient.length - 1]) {
      const cut = file.subarray(0, file.length - missing);
      expect(withTidyDirectory(cut)).not.toBe(cut);
      await expect(inspectImage(cut, limits)).rejects.toMatchObject({ code: 'corrupt_image' });
    }
  });

  it.each([
    ['LZW', { compression: 'lzw' }],
    ['deflate', { compression: 'deflate' }],
    // A damaged tile is black, and a warning.
    ['LZW in tiles', { compression: 'lzw', tile: true, tileWidth: 16, tileHeight: 16 }],
  ] as const)('%s', async (_, options) => {
    const file = await sharp(await samples.png())
      .tiff(options)
      .toBuffer();
    expect(await inspectImage(file, limits)).toMatchObject({ format: 'tiff' });
    // The directory is at the end.
    file.fill(0xff, 60, 120);
    await expect(inspectImage(file, limits)).rejects.toMatchObject({ code: 'corrupt_image' });
  });
});
