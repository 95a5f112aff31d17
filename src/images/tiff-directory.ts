/** The first directory of a TIFF, classic or big: of a file, or of a block of EXIF (TIFF 6.0, section 2). */

/** One that is whole inside the bytes. */
export interface TiffEntry {
  /** Its first byte. */
  readonly startAt: number;
  readonly tag: number;
  readonly type: number;
  /** Values, not bytes. */
  readonly count: number;
  /** Where the value is, or, if it is too long for its place, the offset of it. */
  readonly valueAt: number;
}

export interface TiffDirectory {
  /** All bytes. */
  readonly words: DataView;
  /** The byte order of `words`. */
  readonly little: boolean;
  readonly entries: readonly TiffEntry[];
  /** Of each: tag and type, two bytes each; count and value, which share the rest. */
  readonly entryBytes: number;
  /** Where the offset of the next directory is, which may be outside. */
  readonly nextAt: number;
}

/** In bytes: where the header says where the directory is, and where in an entry its value is; sizes of the rest. */
const classic = { startAt: 4, header: 8, count: 2, entry: 12, valueAt: 8 };
/** BigTIFF has offsets and counts of 64 bits. */
const big = { startAt: 8, header: 16, count: 8, entry: 20, valueAt: 12 };

/** The type of texts. */
export const asciiType = 2;

/** As many as a classic TIFF can have: a hostile big one may have millions. */
const mostEntries = 65_535;

/**
 * @param bytes may be damaged: entries that are not whole are left out
 * @returns undefined when there is no directory inside the bytes
 */
export function firstDirectory(bytes: Uint8Array): TiffDirectory | undefined {
  const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const inside = (at: number, length: number): boolean => at + length <= bytes.byteLength;
  if (!inside(0, classic.header)) return undefined;
  const little = words.getUint16(0) === 0x4949;
  const layout = words.getUint16(2, little) === 43 ? big : classic;
  if (!inside(0, layout.header)) return undefined;
  const source = { words, little, layout };
  return directoryAt(source, offsetAt(source, layout.startAt));
}

/**
 * @param tag whose value is the offset of another directory
 * @returns undefined when it is absent, or there is no directory inside the bytes
 */
export function directoryBehind(parent: TiffDirectory, tag: number): TiffDirectory | undefined {
  const entry = parent.entries.find((one) => one.tag === tag);
  const source = { ...parent, layout: parent.entryBytes === big.entry ? big : classic };
  return entry && directoryAt(source, offsetAt(source, entry.valueAt));
}

interface Source extends Pick<TiffDirectory, 'words' | 'little'> {
  readonly layout: typeof classic;
}

const offsetAt = ({ words, little, layout }: Source, at: number): number =>
  layout === big ? Number(words.getBigUint64(at, little)) : words.getUint32(at, little);

function directoryAt(source: Source, start: number): TiffDirectory | undefined {
  const { words, little, layout } = source;
  if (start < layout.header || start + layout.count > words.byteLength) return undefined;
  const count = layout === big ? offsetAt(source, start) : words.getUint16(start, little);
  const first = start + layout.count;
  const whole = Math.floor((words.byteLength - first) / layout.entry);
  const entries = Array.from({ length: Math.min(count, whole, mostEntries) }, (_, i) => {
    const at = first + layout.entry * i;
    return {
      startAt: at,
      tag: words.getUint16(at, little),
      type: words.getUint16(at + 2, little),
      count: offsetAt(source, at + 4),
      valueAt: at + layout.valueAt,
    };
  });
  const nextAt = first + layout.entry * count;
  return { words, little, entries, entryBytes: layout.entry, nextAt };
}

/** @returns where the bytes of a text (type ASCII) begin, which may be outside */
export function textAt(
  { words, little, entryBytes }: TiffDirectory,
  { count, valueAt }: TiffEntry,
): number {
  const isBig = entryBytes === big.entry;
  if (count <= (isBig ? 8 : 4)) return valueAt;
  return isBig ? Number(words.getBigUint64(valueAt, little)) : words.getUint32(valueAt, little);
}
