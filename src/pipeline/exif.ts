/** What `metadata=keep` reads and changes in a block of EXIF: a TIFF file without pixels (EXIF 2.3, section 4.5). */
import { asciiType, directoryBehind, firstDirectory, textAt } from '../images/tiff-directory.ts';

const prefix = Buffer.from('Exif\0\0', 'latin1');

export const exifTags = {
  imageDescription: 0x010e,
  orientation: 0x0112,
  software: 0x0131,
} as const;

/**
 * The TIFF, and the directory in which the tags above are.
 * @param exif with or without the prefix that JPEG puts before it
 */
function openExif(exif: Buffer) {
  const isPrefixed = exif.subarray(0, prefix.length).equals(prefix);
  const tiff = Buffer.from(isPrefixed ? exif.subarray(prefix.length) : exif);
  return { tiff, directory: firstDirectory(tiff) };
}

/**
 * Makes the block one of an upright output without thumbnail. libvips writes the orientation that it read over whatever
 * is set later, so the entry is changed here. IFD1 is the thumbnail of the input: as it lay, and of what it showed.
 * @returns the TIFF, without prefix
 */
export function outputExif(exif: Buffer): Buffer {
  const { tiff, directory } = openExif(exif);
  if (!directory) return tiff;
  const { words, little, entries, nextAt } = directory;
  for (const { tag, valueAt } of entries) {
    if (tag === exifTags.orientation) words.setUint16(valueAt, 1, little);
  }
  if (entries.length > 0) tiff.subarray(nextAt, nextAt + 4).fill(0);
  return tiff;
}

/** The directory of the photograph itself, and in it what the camera's maker writes: mostly by far the longest. */
const exifDirectory = 0x8769;
const makerNote = 0x927c;

/** @returns the TIFF, without prefix, with an empty note of the maker's: libexif drops tags without values */
export function withoutMakerNote(exif: Buffer): Buffer {
  const { tiff, directory } = openExif(exif);
  const photo = directory && directoryBehind(directory, exifDirectory);
  for (const { tag, startAt } of photo?.entries ?? []) {
    // The count is behind the tag and the type.
    if (tag === makerNote) photo?.words.setUint32(startAt + 4, 0, photo.little);
  }
  return tiff;
}

/** @returns the text of an ASCII tag of the first directory; '' when it is absent or blank */
export function exifText(exif: Buffer, tag: number): string {
  const { tiff, directory } = openExif(exif);
  const entry = directory?.entries.find((one) => one.tag === tag && one.type === asciiType);
  if (!directory || !entry) return '';
  const from = textAt(directory, entry);
  return tiff
    .toString('utf8', from, from + entry.count)
    .replaceAll('\0', ' ')
    .trim();
}
