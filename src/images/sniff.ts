/**
 * Which allowed format some bytes claim to be, by their signature, and whether they say that they are
 * animated. Needed because libvips would open more than we allow, and ignores the animation of a PNG.
 */
import { contentTypeOf, type OutputFormat } from '../jobs/params.ts';

/** What comes in: all that goes out, and TIFF. */
export type ImageFormat = OutputFormat | 'tiff';

export const contentTypes: Record<ImageFormat, string> = { ...contentTypeOf, tiff: 'image/tiff' };

const ascii = (bytes: Uint8Array, from: number, to: number): string =>
  String.fromCharCode(...bytes.subarray(from, to));

const view = (bytes: Uint8Array): DataView =>
  new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

/** Brands of the `ftyp` box of an ISO base media file: the major one first. */
function isoBrands(bytes: Uint8Array): string[] {
  if (bytes.length < 16 || ascii(bytes, 4, 8) !== 'ftyp') return [];
  const end = Math.min(view(bytes).getUint32(0), bytes.length, 256);
  const brands = [ascii(bytes, 8, 12)];
  for (let at = 16; at + 4 <= end; at += 4) brands.push(ascii(bytes, at, at + 4));
  return brands;
}

/** Little and big endian, classic and BigTIFF. */
const tiffSignatures = ['II*\0', 'MM\0*', 'II+\0', 'MM\0+'];

export function sniffFormat(bytes: Uint8Array): ImageFormat | undefined {
  if (ascii(bytes, 0, 8) === '\x89PNG\r\n\x1a\n') return 'png';
  if (ascii(bytes, 0, 3) === '\xff\xd8\xff') return 'jpeg';
  if (ascii(bytes, 0, 4) === 'RIFF' && ascii(bytes, 8, 12) === 'WEBP') return 'webp';
  if (tiffSignatures.includes(ascii(bytes, 0, 4))) return 'tiff';
  if (isoBrands(bytes).some((brand) => brand === 'avif' || brand === 'avis')) return 'avif';
  return undefined;
}

/**
 * Brands of HEIF images (ISO/IEC 23008-12, annex B and the registry of MP4RA): compressed by HEVC, or of any codec.
 * An AVIF may name the last two as well.
 */
const heifBrands = ['heic', 'heix', 'heim', 'heis', 'hevc', 'hevx', 'mif1', 'msf1'];

/** True for what phones save as .heic, which our libvips cannot read. */
export const isHeic = (bytes: Uint8Array): boolean =>
  sniffFormat(bytes) === undefined && isoBrands(bytes).some((brand) => heifBrands.includes(brand));

/** The name of a chunk or box as the number that its four bytes are: a hostile file may have millions of them. */
export const fourCC = (name: string): number => view(Buffer.from(name, 'latin1')).getUint32(0);
const acTL = fourCC('acTL');
const IDAT = fourCC('IDAT');
const moov = fourCC('moov');

/** True for a PNG with an animation control chunk, which comes before the first image data. */
function isAnimatedPng(bytes: Uint8Array): boolean {
  const words = view(bytes);
  for (let at = 8; at + 8 <= bytes.length; at += 12 + words.getUint32(at)) {
    const chunk = words.getUint32(at + 4);
    if (chunk === acTL) return true;
    if (chunk === IDAT) return false;
  }
  return false;
}

/** True for an AVIF that holds a track (`moov`), that is, an image sequence. */
function isAvifSequence(bytes: Uint8Array): boolean {
  const words = view(bytes);
  for (let at = 0; at + 8 <= bytes.length; ) {
    if (words.getUint32(at + 4) === moov) return true;
    const size = words.getUint32(at);
    // 0: the box reaches to the end. 1: a 64-bit size, which no box before `moov` needs.
    if (size < 8) return false;
    at += size;
  }
  return false;
}

/** Animations that libvips does not report as pages. */
export function saysAnimated(bytes: Uint8Array, format: ImageFormat): boolean {
  if (format === 'png') return isAnimatedPng(bytes);
  if (format === 'avif') return isAvifSequence(bytes);
  return false;
}
