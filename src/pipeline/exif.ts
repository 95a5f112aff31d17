/** What `metadata=keep` reads and changes in a block of EXIF: a TIFF file without pixels (TIFF 6.0, section 2). */

const prefix = Buffer.from('Exif\0\0', 'latin1');

export const exifTags = {
  imageDescription: 0x010e,
  orientation: 0x0112,
  software: 0x0131,
} as const;

const headerBytes = 8;
const entryBytes = 12;
const asciiType = 2;

/** The first directory, in which the tags above are. A damaged block has the entries that are inside of it. */
interface Directory {
  readonly tiff: Buffer;
  readonly read16: (at: number) => number;
  readonly read32: (at: number) => number;
  readonly write16: (value: number, at: number) => void;
  /** Where each entry begins: tag, type, count, value or its offset. */
  readonly entries: number[];
  /** Where the offset of the next directory (IFD1) is. */
  readonly nextAt: number;
}

/** @param exif with or without the prefix that JPEG puts before it */
function firstDirectory(exif: Buffer): Directory {
  const isPrefixed = exif.subarray(0, prefix.length).equals(prefix);
  const tiff = Buffer.from(isPrefixed ? exif.subarray(prefix.length) : exif);
  const little = tiff.toString('latin1', 0, 2) === 'II';
  const inside = (at: number, bytes: number) => at + bytes <= tiff.length;
  const read16 = (at: number) => {
    if (!inside(at, 2)) return 0;
    return little ? tiff.readUInt16LE(at) : tiff.readUInt16BE(at);
  };
  const read32 = (at: number) => {
    if (!inside(at, 4)) return 0;
    return little ? tiff.readUInt32LE(at) : tiff.readUInt32BE(at);
  };
  const write16 = (value: number, at: number) =>
    little ? tiff.writeUInt16LE(value, at) : tiff.writeUInt16BE(value, at);
  const start = read32(4);
  const first = start + 2;
  const count = start < headerBytes ? 0 : read16(start);
  const entries = Array.from({ length: count }, (_, i) => first + entryBytes * i);
  return {
    tiff,
    read16,
    read32,
    write16,
    entries: entries.filter((at) => inside(at, entryBytes)),
    nextAt: first + entryBytes * count,
  };
}

/**
 * Makes the block one of an upright output without thumbnail. libvips writes the orientation that it read over whatever
 * is set later, so the entry is changed here. IFD1 is the thumbnail of the input: as it lay, and of what it showed.
 * @returns the TIFF, without prefix
 */
export function outputExif(exif: Buffer): Buffer {
  const { tiff, read16, write16, entries, nextAt } = firstDirectory(exif);
  for (const at of entries) {
    if (read16(at) === exifTags.orientation) write16(1, at + 8);
  }
  if (entries.length > 0) tiff.subarray(nextAt, nextAt + 4).fill(0);
  return tiff;
}

/** @returns the text of an ASCII tag of the first directory; '' when it is absent or blank */
export function exifText(exif: Buffer, tag: number): string {
  const { tiff, read16, read32, entries } = firstDirectory(exif);
  const at = entries.find((entry) => read16(entry) === tag && read16(entry + 2) === asciiType);
  if (at === undefined) return '';
  const length = read32(at + 4);
  const from = length <= 4 ? at + 8 : read32(at + 8);
  return tiff
    .toString('utf8', from, from + length)
    .replaceAll('\0', ' ')
    .trim();
}
