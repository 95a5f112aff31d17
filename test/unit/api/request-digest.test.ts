/** The bytes of an upload are gone through once, and other requests have their turn meanwhile. */
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { digestFiles } from '../../../src/api/request-digest.ts';

const mebibyte = 1 << 20;
const whole = (bytes: Uint8Array): string => createHash('sha256').update(bytes).digest('hex');

test.each([1, mebibyte - 1, mebibyte, mebibyte + 1, 2 * mebibyte, 3 * mebibyte + 7])(
  'of %i bytes it is the SHA-256 of all',
  async (length) => {
    const image = Buffer.alloc(length, 'some image');
    expect(await digestFiles({ image, maps: {} })).toEqual([whole(image), null, null]);
  },
);

test('each file has its place, and one that is not there has it too', async () => {
  const [image, sem] = [Buffer.from('image'), Buffer.from('sem')];
  expect(await digestFiles({ maps: {} })).toEqual([null, null, null]);
  expect(await digestFiles({ image, maps: { sem } })).toEqual([whole(image), null, whole(sem)]);
  expect(await digestFiles({ maps: { pix: sem } })).toEqual([null, whole(sem), null]);
});

test('a long one lets others have their turn', async () => {
  let turns = 0;
  let isOver = false;
  const turn = () => {
    turns++;
    if (!isOver) setImmediate(turn);
  };
  setImmediate(turn);
  await digestFiles({ image: Buffer.alloc(16 * mebibyte), maps: {} });
  isOver = true;
  expect(turns).toBeGreaterThanOrEqual(15);
});
