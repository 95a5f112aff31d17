/** Makes colour profiles for RGB that has the curve of sRGB (ICC.1:2022, chapters 7 to 10). */

const headerBytes = 128;

/** The white of the connection space, D50. */
const white = [0.9642, 1, 0.8249];
/** Bradford's transform from D65, row by row. */
const adaptation = [
  [1.04788, 0.02292, -0.05022],
  [0.02959, 0.99048, -0.01707],
  [-0.00924, 0.01508, 0.75168],
].flat();
/** IEC 61966-2-1 as the formula of type 3: (a·x + b)^g from d on, c·x below. */
const curve = [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045];

function words16(...values: number[]): Buffer {
  const bytes = Buffer.alloc(2 * values.length);
  for (const [i, value] of values.entries()) bytes.writeUInt16BE(value, 2 * i);
  return bytes;
}

function words32(...values: number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  for (const [i, value] of values.entries()) bytes.writeInt32BE(value, 4 * i);
  return bytes;
}

/** 16 bits before and 16 behind the point. */
const fixed = (values: readonly number[]): Buffer =>
  words32(...values.map((value) => Math.round(65_536 * value)));

/** A type of tag: its name, four bytes of nothing, what is in it. */
const tag = (type: string, ...content: Buffer[]): Buffer =>
  Buffer.concat([Buffer.from(`${type}\0\0\0\0`, 'latin1'), ...content]);

/** One text, in the English of the United States (`enUS`), whose letters of 16 bits begin at byte 28. */
function text(words: string): Buffer {
  const letters = words16(...Buffer.from(words, 'latin1'));
  const record = [words32(1, 12), words16(0x656e, 0x5553), words32(letters.length, 28)];
  // Each tag begins at a multiple of four.
  return tag('mluc', ...record, letters, Buffer.alloc(letters.length % 4));
}

function header(bytes: number): Buffer {
  const head = Buffer.alloc(headerBytes);
  head.writeUInt32BE(bytes);
  // Version 4.3, for a screen, from RGB to XYZ.
  head.writeUInt32BE(0x04300000, 8);
  head.write('mntrRGB XYZ ', 12, 'latin1');
  words16(2026, 1, 1).copy(head, 24);
  head.write('acsp', 36, 'latin1');
  fixed(white).copy(head, 68);
  return head;
}

type Xyz = readonly [x: number, y: number, z: number];

/**
 * @param name what viewers call the profile, in Latin letters
 * @param primaries of R, G and B, adapted to D50: together they are white
 */
export function matrixProfile(
  name: string,
  [red, green, blue]: readonly [red: Xyz, green: Xyz, blue: Xyz],
): Buffer {
  const light = tag('para', words16(3, 0), fixed(curve));
  const tags = [
    ['desc', text(name)],
    ['cprt', text('CC0')],
    ['wtpt', tag('XYZ ', fixed(white))],
    ['chad', tag('sf32', fixed(adaptation))],
    ['rXYZ', tag('XYZ ', fixed(red))],
    ['gXYZ', tag('XYZ ', fixed(green))],
    ['bXYZ', tag('XYZ ', fixed(blue))],
    ['rTRC', light],
    ['gTRC', light],
    ['bTRC', light],
  ] as const;
  let end = headerBytes + 4 + 12 * tags.length;
  const table = [words32(tags.length)];
  for (const [signature, { length }] of tags) {
    table.push(Buffer.from(signature, 'latin1'), words32(end, length));
    end += length;
  }
  return Buffer.concat([header(end), ...table, ...tags.map(([, data]) => data)]);
}
