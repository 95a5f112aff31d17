/** The colours that the samples of a file are stored in: of the places that may say so, the one that counts. */
import { avifCodePoints } from './avif-code-points.ts';
import { areKnown, type CodePoints, profileOf } from './code-points.ts';
import { checkDynamicRange } from './high-dynamic-range.ts';
import { checkProfile } from './icc-profile.ts';
import { eachChunk } from './png-text.ts';
import { fourCC, type ImageFormat } from './sniff.ts';

const cICP = fourCC('cICP');
/** Four code points and what frames a chunk (PNG specification, third edition, 11.3.2.6). */
const cICPBytes = 4 + 12;

function pngCodePoints(bytes: Uint8Array): CodePoints | undefined {
  const png = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let points: CodePoints | undefined;
  eachChunk(png, (type, start, end) => {
    if (type !== cICP || end - start !== cICPBytes) return;
    points ??= { primaries: png.readUInt8(start + 8), transfer: png.readUInt8(start + 9) };
  });
  return points;
}

function codePointsOf(bytes: Uint8Array, format: ImageFormat): CodePoints | undefined {
  if (format === 'png') return pngCodePoints(bytes);
  return format === 'avif' ? avifCodePoints(bytes) : undefined;
}

/**
 * A profile comes before the code points of an AVIF, which beside it speak of luma and chroma alone (ISO/IEC 23000-22,
 * 7.3.6.4); those of a PNG come before a profile where they can be read (PNG specification, third edition, 4.3).
 * @param bytes of an image, which may be damaged
 * @param embedded the profile that libvips has found
 * @returns `embedded` itself, or one made from code points; undefined for sRGB, or what else samples of its kind count as
 * @throws unsupported_media_type for HDR, and for a profile that is not applied
 */
export function storedProfile(
  bytes: Uint8Array,
  format: ImageFormat,
  embedded: Buffer | undefined,
): Buffer | undefined {
  if (embedded) checkProfile(embedded);
  const points = codePointsOf(bytes, format);
  if (!points) return embedded;
  if (embedded && (format === 'avif' || !areKnown(points))) return embedded;
  checkDynamicRange(points);
  return profileOf(points);
}
