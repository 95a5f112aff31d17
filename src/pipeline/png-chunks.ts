/** Writes metadata into a PNG that is already encoded. What such chunks cost to read is the business of `png-text.ts`. */
import zlib from 'node:zlib';

/** PNG chunk: length, type, data, CRC of type and data (PNG specification, 5.3). */
function chunk(type: string, ...data: Uint8Array[]): Buffer {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), ...data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(body.length - 4, 0);
  body.copy(framed, 4);
  framed.writeUInt32BE(zlib.crc32(body), body.length + 4);
  return framed;
}

export const profileChunk = (profile: Buffer): Buffer =>
  chunk('iCCP', Buffer.from('icc\0\0', 'latin1'), zlib.deflateSync(profile));

export const exifChunk = (exif: Buffer): Buffer => chunk('eXIf', exif);

/** Not compressed, as the XMP specification asks (part 3, 1.1.5); the texts of `iTXt` are UTF-8. */
export const xmpChunk = (xmp: Buffer): Buffer =>
  chunk('iTXt', Buffer.from('XML:com.adobe.xmp\0\0\0\0\0', 'latin1'), xmp);

/** Signature (8 bytes) and the IHDR chunk (25 bytes), after which metadata may come. */
const headBytes = 33;

/** @returns a copy of the PNG with the chunks in front of all that may follow its head */
export const withChunks = (png: Buffer, chunks: readonly Buffer[]): Buffer =>
  Buffer.concat([png.subarray(0, headBytes), ...chunks, png.subarray(headBytes)]);
