/** What an AVIF says of its colours in code points: the `nclx` of the item that is shown (ISO/IEC 14496-12, 12.1.5). */
import type { CodePoints } from './code-points.ts';
import { fourCC } from './sniff.ts';

const meta = fourCC('meta');
const pitm = fourCC('pitm');
const iprp = fourCC('iprp');
const ipco = fourCC('ipco');
const ipma = fourCC('ipma');
const colr = fourCC('colr');
const nclx = fourCC('nclx');

/** Version and flags, with which some boxes begin. */
const fullBoxBytes = 4;

/** Whole boxes only. No object is made of them, as a hostile file may have millions. */
function eachBox(parent: Buffer, visit: (type: number, from: number, to: number) => void): void {
  for (let at = 0; at + 8 <= parent.length; ) {
    // 0: the box reaches to the end. 1: a size of 64 bits, which no box needs that is looked for.
    const end = at + (parent.readUInt32BE(at) || parent.length - at);
    if (end < at + 8 || end > parent.length) return;
    visit(parent.readUInt32BE(at + 4), at + 8, end);
    at = end;
  }
}

const nothing = Buffer.alloc(0);

/** What is in the first box of its type; empty where there is none. */
function boxIn(parent: Buffer, wanted: number): Buffer {
  let found: Buffer | undefined;
  eachBox(parent, (type, from, to) => {
    if (type === wanted) found ??= parent.subarray(from, to);
  });
  return found ?? nothing;
}

/**
 * The places, from 1 on, of an item's properties among all of them (ISO/IEC 23008-12, 9.3.2).
 * @throws RangeError where the box ends too early
 */
function placesOf(item: number, associations: Buffer): Set<number> {
  const hasLongIds = associations.readUInt8(0) > 0;
  const hasLongPlaces = (associations.readUInt8(3) & 1) === 1;
  const places = new Set<number>();
  let at = fullBoxBytes;
  const read = (bytes: number): number => {
    at += bytes;
    return associations.readUIntBE(at - bytes, bytes);
  };
  for (let entries = read(4); entries > 0; entries--) {
    const isWanted = read(hasLongIds ? 4 : 2) === item;
    for (let count = read(1); count > 0; count--) {
      // The highest bit says that the property is essential.
      const place = hasLongPlaces ? read(2) & 0x7fff : read(1) & 0x7f;
      if (isWanted) places.add(place);
    }
  }
  return places;
}

/** @throws RangeError where a box ends too early */
function codePointsIn(file: Buffer): CodePoints | undefined {
  const header = boxIn(file, meta).subarray(fullBoxBytes);
  const primary = boxIn(header, pitm);
  const item = primary.readUIntBE(fullBoxBytes, primary.readUInt8(0) > 0 ? 4 : 2);
  const properties = boxIn(header, iprp);
  const places = placesOf(item, boxIn(properties, ipma));
  const list = boxIn(properties, ipco);
  let place = 0;
  let points: CodePoints | undefined;
  eachBox(list, (type, from, to) => {
    place++;
    if (type !== colr || !places.has(place)) return;
    const color = list.subarray(from, to);
    if (color.readUInt32BE(0) !== nclx) return;
    points ??= { primaries: color.readUInt16BE(4), transfer: color.readUInt16BE(6) };
  });
  return points;
}

/**
 * Of the item that is shown alone: another one may be a gain map, or the same picture in high dynamic range.
 * @param bytes of an AVIF, which may be damaged
 * @returns undefined where it says nothing of them
 */
export function avifCodePoints(bytes: Uint8Array): CodePoints | undefined {
  try {
    return codePointsIn(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength));
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}
