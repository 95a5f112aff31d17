import { expect, test } from 'vitest';
import { firstDirectory } from '../../../src/images/tiff-directory.ts';

/** The head of a big TIFF in little endian, and a directory that claims so many entries and has two. */
function bigTiff(claimed: bigint): Buffer {
  const bytes = Buffer.alloc(16 + 8 + 2 * 20);
  bytes.write('II+\0\x08\0\0\0', 'latin1');
  bytes.writeBigUInt64LE(16n, 8);
  bytes.writeBigUInt64LE(claimed, 16);
  for (const [i, tag] of [256, 262].entries()) {
    bytes.writeUInt16LE(tag, 24 + 20 * i);
    bytes.writeBigUInt64LE(1n, 28 + 20 * i);
  }
  return bytes;
}

test.each([2n, 3n, 2n ** 63n])(
  'a directory that claims %d entries has those that are there',
  (claimed) => {
    const { entries = [] } = firstDirectory(bigTiff(claimed)) ?? {};
    expect(entries.map(({ tag, count, valueAt }) => [tag, count, valueAt])).toEqual([
      [256, 1, 36],
      [262, 1, 56],
    ]);
  },
);

test('bytes without a whole directory have none', () => {
  const bytes = bigTiff(2n);
  for (const length of [0, 7, 15, 23])
    expect(firstDirectory(bytes.subarray(0, length))).toBeUndefined();
  bytes.writeBigUInt64LE(8n, 8);
  expect(firstDirectory(bytes)).toBeUndefined();
  bytes.writeBigUInt64LE(2n ** 63n, 8);
  expect(firstDirectory(bytes)).toBeUndefined();
});
