/** The little that libvips does not say of a TIFF. */
import { firstDirectory } from './tiff-directory.ts';

/** Tags of a directory entry (TIFF 6.0, section 8). */
const compression = 259;
const photometric = 262;

const ycbcr = 6;
const jpeg = 7;

/**
 * True for luma and chroma in samples of their own, as video tools write them: libvips converts them where they are
 * compressed as JPEG, and takes them for RGB elsewhere.
 * @param bytes of a classic or big TIFF, which may be damaged
 */
export function holdsPlainYCbCr(bytes: Uint8Array): boolean {
  const directory = firstDirectory(bytes);
  if (!directory) return false;
  const { words, little, entries } = directory;
  // Both tags are of 16 bits, which stand first in the place of the value.
  const read = (tag: number): number | undefined => {
    const entry = entries.find((one) => one.tag === tag);
    return entry && words.getUint16(entry.valueAt, little);
  };
  return read(photometric) === ycbcr && read(compression) !== jpeg;
}
