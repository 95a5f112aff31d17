/** Uploads that a public service meets: damaged, lying, animated, huge or no image at all. Made here, byte by byte. */
import { crc32, deflateSync } from 'node:zlib';
import sharp from 'sharp';

type Rgb = { r: number; g: number; b: number };

const pngSignature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);

/** One PNG chunk: length, type, data, CRC over type and data. */
function chunk(type: string, data: Uint8Array): Buffer {
  const typed = Buffer.concat([Buffer.from(type, 'latin1'), data]);
  const head = Buffer.alloc(4);
  head.writeUInt32BE(data.length);
  const tail = Buffer.alloc(4);
  tail.writeUInt32BE(crc32(typed));
  return Buffer.concat([head, typed, tail]);
}

function ihdr(width: number, height: number, bitDepth = 8, colourType = 0): Buffer {
  const data = Buffer.alloc(13);
  data.writeUInt32BE(width, 0);
  data.writeUInt32BE(height, 4);
  data[8] = bitDepth;
  data[9] = colourType;
  return chunk('IHDR', data);
}

const iend = chunk('IEND', Buffer.alloc(0));

/** A sound image with some structure, so that no format compresses it to nothing. */
export function photo(
  format: 'png' | 'jpeg' | 'webp' | 'avif' | 'tiff' | 'gif',
  width = 64,
  height = 48,
): Promise<Buffer> {
  const pixels = Buffer.alloc(width * height * 3);
  for (let i = 0; i < pixels.length; i += 1) pixels[i] = (i * 7919 + (i >> 5) * 31) & 255;
  const image = sharp(pixels, { raw: { width, height, channels: 3 } });
  // AVIF's default effort takes seconds on a busy machine.
  return format === 'avif' ? image.avif({ effort: 0 }).toBuffer() : image[format]().toBuffer();
}

/** The first `share` of a sound image. */
export async function truncated(
  format: 'png' | 'jpeg' | 'webp' | 'avif' | 'tiff',
  share = 0.6,
): Promise<Buffer> {
  const whole = await photo(format);
  return whole.subarray(0, Math.floor(whole.length * share));
}

/** A PNG whose header claims a size that its data does not have. */
export function claimsPixels(width: number, height: number): Buffer {
  const data = chunk('IDAT', deflateSync(Buffer.alloc(1024)));
  return Buffer.concat([pngSignature, ihdr(width, height), data, iend]);
}

/** A sound 1-bit PNG of `side`² pixels in some kilobytes: small on the wire, huge in memory. */
export function pixelBomb(side: number): Buffer {
  const rows = Buffer.alloc((1 + Math.ceil(side / 8)) * side);
  const data = chunk('IDAT', deflateSync(rows, { level: 9 }));
  return Buffer.concat([pngSignature, ihdr(side, side, 1), data, iend]);
}

/** A PNG with one flipped bit in its pixel data, CRC and all else intact. */
export async function flippedBit(): Promise<Buffer> {
  const damaged = Buffer.from(await photo('png'));
  const at = damaged.indexOf('IDAT') + 4 + 200;
  damaged[at] = (damaged[at] ?? 0) ^ 0x10;
  return damaged;
}

/** A JPEG whose scan is noise from its middle on. */
export async function scrambledJpeg(): Promise<Buffer> {
  const damaged = Buffer.from(await photo('jpeg'));
  damaged.fill(0xff, Math.floor(damaged.length / 2), damaged.length - 2);
  return damaged;
}

/** Two frames that differ, as an animation of the given format, or as the two pages of a TIFF. */
export async function twoFrames(format: 'gif' | 'webp' | 'tiff'): Promise<Buffer> {
  const frame = (background: Rgb) =>
    sharp({ create: { width: 16, height: 16, channels: 3, background } })
      .png()
      .toBuffer();
  const frames = await Promise.all([frame({ r: 255, g: 0, b: 0 }), frame({ r: 0, g: 0, b: 255 })]);
  return sharp(frames, { join: { animated: true } })
    [format]()
    .toBuffer();
}

/** An animated PNG: a sound PNG with the `acTL` chunk that makes it one (two frames, played for ever). */
export async function animatedPng(): Promise<Buffer> {
  const still = await photo('png');
  const control = Buffer.alloc(8);
  control.writeUInt32BE(2, 0);
  const afterIhdr = pngSignature.length + 25;
  return Buffer.concat([
    still.subarray(0, afterIhdr),
    chunk('acTL', control),
    still.subarray(afterIhdr),
  ]);
}

/** A PNG header and nothing behind it. */
export const headerOnly = (): Buffer => Buffer.concat([pngSignature, ihdr(16, 16)]);

/** A PNG of no width. */
export const zeroWidth = (): Buffer => Buffer.concat([pngSignature, ihdr(0, 16), iend]);

/** Files of types that we refuse, and would even if their loader were compiled in. */
export const notAllowed = {
  svg: Buffer.from(
    '<?xml version="1.0"?><!DOCTYPE svg [<!ENTITY x SYSTEM "file:///etc/passwd">]><svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><text y="20">&x;</text></svg>',
  ),
  pdf: Buffer.from(
    '%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF',
  ),
  bmp: Buffer.concat([Buffer.from('BM'), Buffer.alloc(120)]),
  ico: Buffer.concat([Buffer.from([0, 0, 1, 0, 1, 0, 16, 16]), Buffer.alloc(120)]),
  heic: Buffer.concat([
    Buffer.from([0, 0, 0, 24]),
    Buffer.from('ftypheic\0\0\0\0mif1heic'),
    Buffer.alloc(64),
  ]),
  jpegXl: Buffer.concat([Buffer.from([0xff, 0x0a]), Buffer.alloc(64)]),
  zip: Buffer.concat([Buffer.from('PK\x03\x04'), Buffer.alloc(64)]),
  html: Buffer.from('<!doctype html><script>alert(1)</script>'),
  text: Buffer.from('not an image'),
  imageMagickScript: Buffer.from(
    'push graphic-context\nfill \'url(https://127.0.0.1/x.jpg"|id")\'\npop graphic-context',
  ),
  zeros: Buffer.alloc(4096),
};
