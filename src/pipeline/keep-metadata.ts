/**
 * `metadata=keep`: gives the output the colour profile, EXIF and XMP of the input. sharp can only carry
 * metadata from an input image to its output, so the pixels travel in a PNG, stored without compression,
 * into which the blocks are written.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import zlib from 'node:zlib';
import type { Sharp } from 'sharp';
import { sharp } from '../images/sharp-policy.ts';
import type { PixelSize } from './geometry.ts';

/** The metadata of an input, as its file holds it. */
export interface InputMetadata {
  /** ICC profile of an RGB input, if RGB can be brought into it. */
  readonly profile?: Buffer;
  readonly exif?: Buffer;
  readonly xmp?: Buffer;
}

/** PNG chunk: length, type, data, CRC of type and data (PNG specification, 5.3). */
function chunk(type: string, ...data: Uint8Array[]): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), ...data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(body.length - 4, 0);
  body.copy(framed, 4);
  framed.writeUInt32BE(zlib.crc32(body), body.length + 4);
  return framed;
}

const exifPrefix = Buffer.from('Exif\0\0', 'latin1');

const orientationTag = 0x0112;

/**
 * Outputs are upright, so no block may ask for another turn. libvips writes the orientation that it read
 * over whatever is set later, so the entry of IFD0 is changed here (TIFF 6.0, section 2).
 */
function uprightExif(exif: Buffer): Buffer {
  const tiff = Buffer.from(
    exif.subarray(0, exifPrefix.length).equals(exifPrefix)
      ? exif.subarray(exifPrefix.length)
      : exif,
  );
  if (tiff.length < 8) return tiff;
  const little = tiff.toString('latin1', 0, 2) === 'II';
  const read16 = (at: number) => (little ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at));
  const ifd = little ? tiff.readUInt32LE(4) : tiff.readUInt32BE(4);
  if (ifd + 2 > tiff.length) return tiff;
  const entries = read16(ifd);
  for (let at = ifd + 2; at < ifd + 2 + 12 * entries && at + 12 <= tiff.length; at += 12) {
    if (read16(at) !== orientationTag) continue;
    if (little) tiff.writeUInt16LE(1, at + 8);
    else tiff.writeUInt16BE(1, at + 8);
  }
  return tiff;
}

const uprightXmp = (xmp: Buffer): Buffer =>
  Buffer.from(
    xmp.toString('utf8').replace(/(tiff:Orientation(?:\s*=\s*["']|\s*>\s*))\d/g, '$11'),
    'utf8',
  );

function metadataChunks({ profile, exif, xmp }: InputMetadata): Buffer[] {
  const chunks: Buffer[] = [];
  if (profile) {
    chunks.push(chunk('iCCP', Buffer.from('icc\0\0', 'latin1'), zlib.deflateSync(profile)));
  }
  if (exif) chunks.push(chunk('eXIf', uprightExif(exif)));
  if (xmp) {
    const keyword = Buffer.from('XML:com.adobe.xmp\0\0\0\0\0', 'latin1');
    chunks.push(chunk('iTXt', keyword, uprightXmp(xmp)));
  }
  return chunks;
}

/** Signature (8 bytes) and the IHDR chunk (25 bytes), after which metadata may come. */
const pngHeadBytes = 33;

async function inProfile(image: Sharp, profile: Buffer): Promise<Buffer> {
  // libvips reads an output profile from a file only.
  const folder = await mkdtemp(path.join(tmpdir(), 'pisa-profile-'));
  try {
    const file = path.join(folder, 'output.icc');
    await writeFile(file, profile);
    return await image.withIccProfile(file, { attach: false }).raw().toBuffer();
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/**
 * @param image sRGB, 8 bits, with or without alpha
 * @returns an image with the pixels in the input's profile, and its metadata, ready for an encoder
 */
export async function keepMetadata(
  image: Sharp,
  size: PixelSize & { channels: 3 | 4 },
  metadata: InputMetadata,
): Promise<Sharp> {
  let source = image;
  if (metadata.profile) {
    const pixels = await inProfile(image, metadata.profile);
    source = sharp(pixels, { raw: size, limitInputPixels: false });
  }
  const png = await source.png({ compressionLevel: 0, adaptiveFiltering: false }).toBuffer();
  const [head, body] = [png.subarray(0, pngHeadBytes), png.subarray(pngHeadBytes)];
  const carrier = Buffer.concat([head, ...metadataChunks(metadata), body]);
  return sharp(carrier, { limitInputPixels: false, unlimited: true })
    .keepMetadata()
    .withExifMerge({
      IFD2: { PixelXDimension: String(size.width), PixelYDimension: String(size.height) },
    });
}
