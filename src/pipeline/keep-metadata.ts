/**
 * `metadata=keep`: gives the output the colour profile, EXIF and XMP of the input. sharp can only carry
 * metadata from an input image to its output, so the pixels travel in a PNG, stored without compression,
 * into which the blocks are written.
 */
import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import zlib from 'node:zlib';
import type { Sharp } from 'sharp';
import { sharp } from '../images/sharp-policy.ts';
import type { PixelSize } from '../jobs/output-size.ts';
import { outputExif } from './exif.ts';
import { placeRecipe, type Recipe } from './recipe.ts';
import { inTemporaryFolder } from './temporary-files.ts';
import { outputXmp } from './xmp.ts';

/** The metadata of an input, as its file holds it. */
export interface InputMetadata {
  /** ICC profile of an RGB input, if RGB can be brought into it. */
  readonly profile?: Buffer | undefined;
  readonly exif?: Buffer | undefined;
  readonly xmp?: Buffer | undefined;
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

/** @param metadata as the output shall have it */
function metadataChunks({ profile, exif, xmp }: InputMetadata): Buffer[] {
  const chunks: Buffer[] = [];
  if (profile) {
    chunks.push(chunk('iCCP', Buffer.from('icc\0\0', 'latin1'), zlib.deflateSync(profile)));
  }
  if (exif) chunks.push(chunk('eXIf', exif));
  if (xmp) {
    const keyword = Buffer.from('XML:com.adobe.xmp\0\0\0\0\0', 'latin1');
    chunks.push(chunk('iTXt', keyword, xmp));
  }
  return chunks;
}

/** Signature (8 bytes) and the IHDR chunk (25 bytes), after which metadata may come. */
const pngHeadBytes = 33;

const need =
  'metadata=keep needs for a photo with a colour profile. With metadata=none nothing is written.';

/** @throws disk_full: libvips reads an output profile from a file only */
const inProfile = (image: Sharp, profile: Buffer): Promise<Buffer> =>
  inTemporaryFolder('pisa-profile-', need, async (folder) => {
    const file = path.join(folder, 'output.icc');
    await writeFile(file, profile);
    return image.withIccProfile(file, { attach: false }).raw().toBuffer();
  });

/**
 * @param image sRGB, 8 bits, with or without alpha
 * @returns an image with the pixels in the input's profile, its metadata and the recipe, ready for an encoder
 * @throws disk_full when the temporary folder cannot take the profile
 */
export async function keepMetadata(
  image: Sharp,
  size: PixelSize & { channels: 3 | 4 },
  { profile, exif, xmp }: InputMetadata,
  recipe: Recipe,
): Promise<Sharp> {
  let source = image;
  if (profile) {
    const pixels = await inProfile(image, profile);
    source = sharp(pixels, { raw: size, limitInputPixels: false });
  }
  const png = await source.png({ compressionLevel: 0, adaptiveFiltering: false }).toBuffer();
  const [head, body] = [png.subarray(0, pngHeadBytes), png.subarray(pngHeadBytes)];
  const placed = placeRecipe(recipe, { exif, xmp });
  const chunks = metadataChunks({
    profile,
    exif: exif && outputExif(exif),
    xmp: outputXmp(xmp, placed.xmp),
  });
  const carrier = Buffer.concat([head, ...chunks, body]);
  return sharp(carrier, { limitInputPixels: false, unlimited: true })
    .keepMetadata()
    .withExifMerge({
      IFD0: placed.exif,
      IFD2: { PixelXDimension: String(size.width), PixelYDimension: String(size.height) },
    });
}
