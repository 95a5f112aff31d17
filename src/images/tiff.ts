/** The little that libvips does not say of a TIFF. */

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
  const tags = firstDirectory(new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  return tags.get(photometric) === ycbcr && tags.get(compression) !== jpeg;
}

/** Compression and colours of the first image, as far as the bytes reach. */
function firstDirectory(words: DataView): Map<number, number> {
  const found = new Map<number, number>();
  try {
    const little = words.getUint16(0) === 0x4949;
    const big = words.getUint16(2, little) === 43;
    const offset = (at: number): number =>
      big ? Number(words.getBigUint64(at, little)) : words.getUint32(at, little);
    const [countBytes, entryBytes] = big ? [8, 20] : [2, 12];
    const start = offset(big ? 8 : 4);
    const count = big ? offset(start) : words.getUint16(start, little);
    for (let i = 0; i < count; i++) {
      const entry = start + countBytes + i * entryBytes;
      const tag = words.getUint16(entry, little);
      // In order of tags. Both are of 16 bits, which stand first in the place of the value.
      if (tag > photometric) break;
      found.set(tag, words.getUint16(entry + entryBytes - (big ? 8 : 4), little));
    }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error;
  }
  return found;
}
