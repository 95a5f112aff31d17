/**
 * Cuts out of a PNG what would only cost memory. Libpng inflates every compressed text before the first pixel, up to
 * 50 MB of each, and libvips and sharp copy them: some hundred kilobytes of file would be gigabytes.
 */
import { promisify } from 'node:util';
import zlib from 'node:zlib';
import { maxProfileBytes, tooLargeProfile } from './icc-profile.ts';
import { fourCC } from './sniff.ts';

const signatureBytes = 8;
/** Length, type and CRC (PNG specification, 5.3). */
const frameBytes = 12;

const IDAT = fourCC('IDAT');
const iCCP = fourCC('iCCP');
const tEXt = fourCC('tEXt');
const zTXt = fourCC('zTXt');
const iTXt = fourCC('iTXt');

/** The one text that is used: by its keyword, libvips takes it for XMP in any kind of chunk, and writes it as zTXt. */
const xmpKeyword = Buffer.from('XML:com.adobe.xmp\0', 'latin1');
/** Editors that log their work in XMP come to some hundred kilobytes. A longer packet is read uncompressed only. */
const maxInflatedXmpBytes = 1_000_000;
/** What programs say of themselves and of a photo is less by far: such texts are not worth a copy of the file. */
const maxSmallTexts = 50;
const maxSmallTextBytes = 65_536;

interface Chunk {
  /** Its four letters, as one number. */
  type: number;
  /** Its first byte, and the one after its last. */
  start: number;
  end: number;
}

/**
 * Whole chunks only: of one that is cut off, the decoder will say so. No object is made of them, as a hostile file may have
 * millions.
 */
export function eachChunk(
  png: Buffer,
  visit: (type: number, start: number, end: number) => void,
): void {
  const words = new DataView(png.buffer, png.byteOffset, png.byteLength);
  for (let start = signatureBytes; start + frameBytes <= png.length; ) {
    const end = start + frameBytes + words.getUint32(start);
    if (end > png.length) return;
    visit(words.getUint32(start + 4), start, end);
    start = end;
  }
}

const isText = (type: number): boolean => type === tEXt || type === zTXt || type === iTXt;

const dataOf = (png: Buffer, { start, end }: Chunk): Buffer => png.subarray(start + 8, end - 4);

function isXmp(png: Buffer, start: number, end: number): boolean {
  const { length } = xmpKeyword;
  if (end - start < frameBytes + length) return false;
  return png.compare(xmpKeyword, 0, length, start + 8, start + 8 + length) === 0;
}

/** What is compressed in a chunk of text or of a profile (PNG specification, 11.3.2.3 and 11.3.3). */
function compressedPart(png: Buffer, chunk: Chunk): Buffer | undefined {
  const data = dataOf(png, chunk);
  const keywordEnd = data.indexOf(0);
  if (keywordEnd < 0 || chunk.type === tEXt) return undefined;
  // The keyword is followed by the method.
  if (chunk.type !== iTXt) return data.subarray(keywordEnd + 2);
  // By a flag, the method, and two more texts.
  if (data[keywordEnd + 1] === 0) return undefined;
  const languageEnd = data.indexOf(0, keywordEnd + 3);
  const translatedEnd = languageEnd < 0 ? -1 : data.indexOf(0, languageEnd + 1);
  return translatedEnd < 0 ? undefined : data.subarray(translatedEnd + 1);
}

const inflate = promisify<Buffer, zlib.ZlibOptions, Buffer>(zlib.inflate);

/** Inflates no more than the limit. Damaged data ends where it is damaged. */
async function isLarger(png: Buffer, chunk: Chunk, maxBytes: number): Promise<boolean> {
  const compressed = compressedPart(png, chunk);
  if (!compressed) return false;
  try {
    await inflate(compressed, { maxOutputLength: maxBytes });
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ERR_BUFFER_TOO_LARGE';
  }
}

async function areSmall(png: Buffer, texts: readonly Chunk[]): Promise<boolean> {
  if (texts.length > maxSmallTexts) return false;
  for (const text of texts) {
    if (text.end - text.start > maxSmallTextBytes) return false;
    if (await isLarger(png, text, maxSmallTextBytes)) return false;
  }
  return true;
}

interface Survey {
  /** What libvips would read of each. */
  profile?: Chunk;
  xmp?: Chunk;
  /** All other text and profiles, as far as they may be few enough to stay. */
  others: Chunk[];
}

function survey(png: Buffer): Survey {
  const found: Survey = { others: [] };
  let isBeforePixels = true;
  eachChunk(png, (type, start, end) => {
    if (type === IDAT) isBeforePixels = false;
    if (type === iCCP && !found.profile) found.profile = { type, start, end };
    else if (isBeforePixels && !found.xmp && isText(type) && isXmp(png, start, end)) {
      found.xmp = { type, start, end };
    } else if ((type === iCCP || isText(type)) && found.others.length <= maxSmallTexts) {
      found.others.push({ type, start, end });
    }
  });
  return found;
}

/** @returns a copy without the text and profiles that are not among the kept ones */
function pruned(png: Buffer, kept: readonly Chunk[]): Buffer {
  const copy = Buffer.allocUnsafe(png.length);
  const starts = new Set(kept.map(({ start }) => start));
  let [from, at] = [0, 0];
  eachChunk(png, (type, start, end) => {
    if ((type !== iCCP && !isText(type)) || starts.has(start)) return;
    at += png.copy(copy, at, from, start);
    from = end;
  });
  at += png.copy(copy, at, from);
  return copy.subarray(0, at);
}

/**
 * @param bytes of a PNG, which may be damaged
 * @returns the PNG without text, but for one packet of XMP, and with one colour profile at the most; `bytes` itself where
 *   that is what it is, or all that would go is small
 * @throws unsupported_media_type for a profile that is too large
 */
export async function withoutText(bytes: Uint8Array): Promise<Uint8Array> {
  const png = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { profile, xmp, others } = survey(png);
  if (profile && (await isLarger(png, profile, maxProfileBytes))) throw tooLargeProfile();
  const dropsXmp = xmp !== undefined && (await isLarger(png, xmp, maxInflatedXmpBytes));
  if (!dropsXmp && (await areSmall(png, others))) return bytes;
  return pruned(
    png,
    [profile, dropsXmp ? undefined : xmp].filter((chunk) => chunk !== undefined),
  );
}
