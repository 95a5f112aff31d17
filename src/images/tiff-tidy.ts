/**
 * Mends what scanners and cameras write into the directory of a TIFF and libtiff warns of: texts that are padded or not
 * ended, and tags out of order. Such a warning cannot be let pass alone: of damaged pixels it may be all that libvips says.
 */
import {
  asciiType,
  firstDirectory,
  type TiffDirectory,
  type TiffEntry,
  textAt,
} from './tiff-directory.ts';

/** Programs write some ten texts, of a line each: more, or longer ones, are not worth the search. */
const maxTexts = 100;
const maxTextBytes = 65_536;

/** A NUL is behind each name of an ink, and libtiff counts them. */
const inkNames = 333;

const isText = ({ type, tag }: TiffEntry): boolean => type === asciiType && tag !== inkNames;

/** A text ends with the only NUL in it (TIFF 6.0, section 2). One that reaches out of the file is for the decoder to refuse. */
function hasTidyTexts(bytes: Buffer, directory: TiffDirectory): boolean {
  const texts = directory.entries.filter(isText);
  if (texts.length > maxTexts) return false;
  return texts.every((text) => {
    const start = textAt(directory, text);
    const end = start + text.count;
    if (end > bytes.length) return true;
    if (text.count === 0 || text.count > maxTextBytes) return false;
    return bytes.subarray(start, end).indexOf(0) === text.count - 1;
  });
}

const isSorted = ({ entries }: TiffDirectory): boolean =>
  entries.every(({ tag }, i) => i === 0 || tag >= (entries[i - 1]?.tag ?? 0));

/** @returns a copy whose tags are in order and whose texts are all empty, for nobody reads them */
function tidied(bytes: Buffer, { entries, entryBytes, little }: TiffDirectory): Buffer {
  const copy = Buffer.from(bytes);
  const sorted = entries.toSorted((a, b) => a.tag - b.tag);
  for (const [i, source] of sorted.entries()) {
    const { startAt, valueAt } = source;
    const entry = Buffer.from(bytes.subarray(startAt, startAt + entryBytes));
    // A count of one, and a NUL in the place of the value.
    if (isText(source)) entry.fill(0, 4).set([1], little ? 4 : valueAt - startAt - 1);
    copy.set(entry, (entries[i] ?? source).startAt);
  }
  return copy;
}

/**
 * @param bytes of a classic or big TIFF, which may be damaged
 * @returns the TIFF without what is awry in its first directory; `bytes` itself where nothing is
 */
export function withTidyDirectory(bytes: Uint8Array): Uint8Array {
  const tiff = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const directory = firstDirectory(tiff);
  if (!directory || (isSorted(directory) && hasTidyTexts(tiff, directory))) return bytes;
  return tidied(tiff, directory);
}
