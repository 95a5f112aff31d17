/** Colour profiles made by hand (ICC.1:2001-04), for what sharp has none of. */

const headerBytes = 128;

/** @param tags type and data of each, 4-byte aligned */
export function profileOf(tags: Record<string, Buffer>, colorSpace = 'RGB '): Buffer {
  const names = Object.keys(tags);
  const table = Buffer.alloc(4 + 12 * names.length);
  table.writeUInt32BE(names.length, 0);
  let offset = headerBytes + table.length;
  for (const [i, name] of names.entries()) {
    const { length } = tags[name] as Buffer;
    table.write(name, 4 + 12 * i, 'latin1');
    table.writeUInt32BE(offset, 8 + 12 * i);
    table.writeUInt32BE(length, 12 + 12 * i);
    offset += length;
  }
  const header = Buffer.alloc(headerBytes);
  header.writeUInt32BE(offset, 0);
  // Version 2.1, an input device, RGB to Lab, the signature of every profile, D50.
  header.writeUInt32BE(0x02100000, 8);
  header.write('scnr', 12, 'latin1');
  header.write(colorSpace, 16, 'latin1');
  header.write('Lab ', 20, 'latin1');
  header.write('acsp', 36, 'latin1');
  header.writeUInt32BE(0xf6d6, 68);
  header.writeUInt32BE(0x10000, 72);
  header.writeUInt32BE(0xd32d, 76);
  return Buffer.concat([header, table, ...Object.values(tags)]);
}

/** Device RGB → Lab by the corners of the cube (lut8Type): muted, so that all of it is inside sRGB. */
function cornersToLab(): Buffer {
  const head = Buffer.alloc(48);
  head.write('mft1', 0, 'latin1');
  head.set([3, 3, 2], 8);
  for (const diagonal of [0, 4, 8]) head.writeUInt32BE(0x10000, 12 + 4 * diagonal);
  const ramp = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
  const corners = Array.from({ length: 8 }, (_, i) => {
    const [r, g, b] = [(i >> 2) & 1, (i >> 1) & 1, i & 1];
    const lightness = 20 + 60 * (0.3 * r + 0.6 * g + 0.1 * b);
    return [2.55 * lightness, 128 + 30 * (r - g), 128 + 30 * (g - b)];
  });
  return Buffer.concat([head, ramp, ramp, ramp, Buffer.from(corners.flat()), ramp, ramp, ramp]);
}

function text(type: string, words: string): Buffer {
  const data = Buffer.alloc(8 + 4 * Math.ceil((words.length + 1) / 4));
  data.write(type, 0, 'latin1');
  data.write(words, 8, 'latin1');
  return data;
}

function whitePoint(): Buffer {
  const data = Buffer.alloc(20);
  data.write('XYZ ', 0, 'latin1');
  for (const [i, value] of [0xf6d6, 0x10000, 0xd32d].entries()) {
    data.writeUInt32BE(value, 8 + 4 * i);
  }
  return data;
}

/** A profile of a scanner, with which images can be read but not written. */
export const inputOnlyProfile = (): Buffer =>
  profileOf({ cprt: text('text', 'none'), wtpt: whitePoint(), A2B0: cornersToLab() });
