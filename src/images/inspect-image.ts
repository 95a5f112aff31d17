/**
 * What the service asks of an upload before it takes it: an allowed format, one frame, not too many
 * pixels, and a file that decodes to its end.
 */
import type { Metadata } from 'sharp';
import { AppError } from '../errors.ts';
import { Fifo } from '../fifo.ts';
import type { PixelSize } from '../jobs/output-size.ts';
import { withScanParameters } from './jpeg-scan.ts';
import { withoutText } from './png-text.ts';
import { sharp, untrusted } from './sharp-policy.ts';
import { contentTypes, type ImageFormat, isHeic, saysAnimated, sniffFormat } from './sniff.ts';
import { storedProfile } from './stored-profile.ts';
import { holdsPlainYCbCr } from './tiff.ts';
import { withTidyDirectory } from './tiff-tidy.ts';

export interface ImageLimits {
  /** Width × height. */
  maxPixels: number;
  /** Throws what else is to be said against the size, upright and in pixels, before anything is decoded. */
  admitSize?: (size: PixelSize) => void;
}

export interface InspectedImage {
  format: ImageFormat;
  contentType: string;
  /** Upright (after EXIF orientation), in pixels. */
  width: number;
  height: number;
}

const allowed = 'Allowed are PNG, JPEG, WebP, AVIF and single-page TIFF.';

/** A fault that sharp found in bytes whose signature is an allowed one. */
export function imageFault(cause: unknown, limits: ImageLimits): AppError {
  const reason = cause instanceof Error ? cause.message : String(cause);
  if (/pixel limit/i.test(reason)) return tooManyPixels(undefined, limits);
  const detail =
    'The image cannot be decoded to its end: it is truncated, damaged, or of an unusual kind. Save it anew as PNG or JPEG.';
  return new AppError('corrupt_image', detail, { cause });
}

function tooManyPixels(size: string | undefined, { maxPixels }: ImageLimits): AppError {
  const found = size === undefined ? 'The image' : `The image is ${size} pixels, which`;
  const detail = `${found} exceeds the limit of ${maxPixels} pixels (MAX_INPUT_PIXELS). Send a smaller one.`;
  return new AppError('too_many_pixels', detail);
}

function severalFrames(format: ImageFormat, pages: number): AppError {
  const what = format === 'tiff' ? `has ${pages} pages` : 'is animated';
  const detail = `The ${format.toUpperCase()} ${what}. Send one image: a single page or frame.`;
  return new AppError('animated_image', detail);
}

export interface ImageHeader {
  inspected: InspectedImage;
  /** What is to be decoded: the file as `decodable` has made it. */
  bytes: Uint8Array;
  metadata: Metadata;
  /** Of the samples as they are stored: `metadata.icc` itself, or another (`storedProfile`). */
  profile: Buffer | undefined;
}

/** The file without what would only cost memory, and without what the decoder would refuse and others read. */
function decodable(bytes: Uint8Array, format: ImageFormat): Uint8Array | Promise<Uint8Array> {
  if (format === 'png') return withoutText(bytes);
  if (format === 'jpeg') return withScanParameters(bytes);
  if (format === 'tiff') return withTidyDirectory(bytes);
  return bytes;
}

/**
 * Format, size and metadata, from the header alone.
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image, or what `limits.admitSize` does
 */
export async function readHeader(bytes: Uint8Array, limits: ImageLimits): Promise<ImageHeader> {
  const format = sniffFormat(bytes);
  if (format === undefined) {
    const fault = isHeic(bytes)
      ? 'This is HEIC, as iPhones save it: convert it to JPEG first.'
      : 'The bytes are not those of an allowed image type.';
    const detail = `${fault} ${allowed}`;
    throw new AppError('unsupported_media_type', detail);
  }
  if (saysAnimated(bytes, format)) throw severalFrames(format, 1);
  const ready = await decodable(bytes, format);
  let metadata: Metadata;
  try {
    // sharp's own, larger limit here, so that the fault below can name the size.
    const { limitInputPixels: _, ...options } = untrusted(limits.maxPixels);
    metadata = await sharp(ready, options).metadata();
  } catch (cause) {
    throw imageFault(cause, limits);
  }
  if (metadata.width * metadata.height > limits.maxPixels) {
    throw tooManyPixels(`${metadata.width} × ${metadata.height}`, limits);
  }
  const pages = metadata.pages ?? 1;
  if (pages > 1) throw severalFrames(format, pages);
  if (metadata.depth !== 'uchar' && metadata.depth !== 'ushort') {
    const detail = `The image has samples of type ${metadata.depth}; 8 or 16 bits per channel are allowed.`;
    throw new AppError('unsupported_media_type', detail);
  }
  if (format === 'tiff' && holdsPlainYCbCr(bytes)) {
    const detail =
      'The TIFF holds luma and chroma (YCbCr) without JPEG compression. Save it as RGB.';
    throw new AppError('unsupported_media_type', detail);
  }
  const profile = storedProfile(bytes, format, metadata.icc);
  const { width, height } = metadata.autoOrient;
  limits.admitSize?.({ width, height });
  const inspected = { format, contentType: contentTypes[format], width, height };
  return { inspected, bytes: ready, metadata, profile };
}

/** The proof that a file decodes need not keep its pixels: they are shrunk while they are read. */
const proofShrink = 8;

/**
 * A decode keeps a thread of libuv's pool for as long as it takes, seconds for a large image. The pool has four, which
 * read and write files, inflate and resolve names as well: two are left for that.
 */
const decodes = new Fifo(2);

/** @throws too_many_pixels | corrupt_image */
async function decodeToEnd(
  bytes: Uint8Array,
  metadata: Metadata,
  limits: ImageLimits,
): Promise<void> {
  try {
    // Colours prove nothing: what a profile makes of them is left to who needs them.
    await sharp(bytes, { ...untrusted(limits.maxPixels), ignoreIcc: true })
      .resize({
        width: Math.ceil(metadata.width / proofShrink),
        height: Math.ceil(metadata.height / proofShrink),
        fit: 'fill',
      })
      .raw()
      .toBuffer();
  } catch (cause) {
    throw imageFault(cause, limits);
  }
}

/**
 * Sniffs, checks the pixel limit before decoding, refuses animated and multi-page images, then proves
 * that the whole file decodes. The work is done in libvips' threads, off the event loop.
 * @param signal ends the wait for other images that are being decoded
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image, what `limits.admitSize` does, or the
 *   reason of the signal
 */
export async function inspectImage(
  bytes: Uint8Array,
  limits: ImageLimits,
  signal?: AbortSignal,
): Promise<InspectedImage> {
  const { inspected, metadata } = await readHeader(bytes, limits);
  // Made ready once more when it is its turn: a copy for each that waits would be as much memory again as all uploads.
  await decodes.take(signal, async () =>
    decodeToEnd(await decodable(bytes, inspected.format), metadata, limits),
  );
  return inspected;
}
