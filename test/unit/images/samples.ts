/** Images of every kind that the service meets, made on the spot. */
import zlib from 'node:zlib';
import { sharp } from '../../../src/images/sharp-policy.ts';

export const width = 53;
export const height = 37;

/** A gradient: each channel has its own direction. Interleaved RGB. */
export const gradient = Uint8Array.from({ length: 3 * width * height }, (_, i) => {
  const [x, y] = [Math.floor(i / 3) % width, Math.floor(i / 3 / width)];
  return [(255 * x) / width, (255 * y) / height, (255 * (x + y)) / (width + height)][i % 3] ?? 0;
});

const rgb = () => sharp(gradient, { raw: { width, height, channels: 3 } });

/** A frame below another: libvips' form of an animation. */
const frames = () => {
  const raw = { width, height: 2 * height, channels: 3, pageHeight: height } as const;
  const data = new Uint8Array(2 * gradient.length);
  data.set(gradient);
  data.set(gradient.toReversed(), gradient.length);
  return sharp(data, { raw });
};

/** One 1 × 1 image file directory after another, uncompressed grey (TIFF 6.0). */
export function tiffOfPages(pages: number, bits = 8): Buffer {
  const tags = [
    [256, 1],
    [257, 1],
    [258, bits],
    [262, 1],
    [273, 8],
    [277, 1],
    [278, 1],
    [279, bits / 8],
  ] as const;
  const ifdBytes = 2 + 12 * tags.length + 4;
  // The samples' place, bytes 8 to 12, serves all pages.
  const file = Buffer.alloc(12 + pages * ifdBytes);
  file.write('II*\0', 'latin1');
  file.writeUInt32LE(12, 4);
  for (let page = 0; page < pages; page++) {
    const at = 12 + page * ifdBytes;
    file.writeUInt16LE(tags.length, at);
    for (const [i, [tag, value]] of tags.entries()) {
      const entry = at + 2 + 12 * i;
      file.writeUInt16LE(tag, entry);
      file.writeUInt16LE(4, entry + 2);
      file.writeUInt32LE(1, entry + 4);
      file.writeUInt32LE(value, entry + 8);
    }
    const next = page + 1 < pages ? at + ifdBytes : 0;
    file.writeUInt32LE(next, at + ifdBytes - 4);
  }
  return file;
}

/** A whole chunk of a PNG. */
export function pngChunk(type: string, data: Uint8Array): Buffer {
  const chunk = Buffer.alloc(12 + data.length);
  chunk.writeUInt32BE(data.length, 0);
  chunk.write(type, 4, 'latin1');
  chunk.set(data, 8);
  chunk.writeUInt32BE(zlib.crc32(chunk.subarray(4, 8 + data.length)), 8 + data.length);
  return chunk;
}

/** Adds a chunk behind the header of a PNG. */
export const withPngChunk = (png: Buffer, type: string, data: Uint8Array): Buffer =>
  Buffer.concat([png.subarray(0, 33), pngChunk(type, data), png.subarray(33)]);

/** The profile as a PNG holds it. */
export const withProfile = (png: Buffer, profile: Uint8Array): Buffer =>
  withPngChunk(
    png,
    'iCCP',
    Buffer.concat([Buffer.from('icc\0\0', 'latin1'), zlib.deflateSync(profile)]),
  );

const box = (type: string, content: Buffer) => {
  const head = Buffer.alloc(8);
  head.writeUInt32BE(8 + content.length, 0);
  head.write(type, 4, 'latin1');
  return Buffer.concat([head, content]);
};

export const samples = {
  png: () => rgb().png().toBuffer(),
  'palette PNG': () => rgb().png({ palette: true, colours: 64 }).toBuffer(),
  'grey PNG': () => rgb().greyscale().toColourspace('b-w').png().toBuffer(),
  '16-bit grey PNG': () => rgb().greyscale().toColourspace('grey16').png().toBuffer(),
  'RGBA PNG': () => rgb().ensureAlpha(0.5).png().toBuffer(),
  '16-bit PNG': () => rgb().toColourspace('rgb16').png().toBuffer(),
  'tagged PNG': () => rgb().withIccProfile('p3').png().toBuffer(),
  jpeg: () => rgb().jpeg().toBuffer(),
  'tagged JPEG': () => rgb().withIccProfile('p3').jpeg().toBuffer(),
  'progressive JPEG': () => rgb().jpeg({ progressive: true }).toBuffer(),
  'CMYK JPEG': () => rgb().toColourspace('cmyk').jpeg().toBuffer(),
  webp: () => rgb().webp().toBuffer(),
  'lossless WebP': () => rgb().webp({ lossless: true }).toBuffer(),
  avif: () => rgb().avif().toBuffer(),
  tiff: () => rgb().tiff({ compression: 'none' }).toBuffer(),
  'LZW TIFF': () => rgb().tiff({ compression: 'lzw' }).toBuffer(),
  'tiled TIFF': () => rgb().tiff({ tile: true, tileWidth: 16, tileHeight: 16 }).toBuffer(),
};

export const animated = {
  'animated WebP': () => frames().webp().toBuffer(),
  APNG: async () =>
    withPngChunk(await samples.png(), 'acTL', Buffer.from('\0\0\0\x02\0\0\0\0', 'latin1')),
  'TIFF of three pages': async () => tiffOfPages(3),
  'AVIF sequence': async () =>
    Buffer.concat([
      box('ftyp', Buffer.from('avis\0\0\0\0avisavifmsf1miaf', 'latin1')),
      box('moov', Buffer.alloc(16)),
    ]),
};

export const notAllowed = {
  empty: async () => Buffer.alloc(0),
  'one byte': async () => Buffer.from([0x89]),
  text: async () => Buffer.from('This is no image at all.'),
  SVG: async () => Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>'),
  PDF: async () => Buffer.from('%PDF-1.7\n1 0 obj\n<<>>\nendobj\n'),
  GIF: () => rgb().gif().toBuffer(),
  'animated GIF': () => frames().gif().toBuffer(),
  BMP: async () => Buffer.concat([Buffer.from('BM'), Buffer.alloc(60)]),
  HEIC: async () => box('ftyp', Buffer.from('heic\0\0\0\0mif1heic', 'latin1')),
  MP4: async () => box('ftyp', Buffer.from('isom\0\0\0\0isomiso2avc1mp41', 'latin1')),
  ZIP: async () => Buffer.from('PK\x03\x04rest of it', 'latin1'),
  'JPEG 2000': async () => Buffer.from('\0\0\0\x0cjP  \r\n\x87\n', 'latin1'),
  'RIFF, but WAVE': async () => Buffer.from('RIFF\0\0\0\0WAVEfmt ', 'latin1'),
};
