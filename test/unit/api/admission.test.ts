import { expect, test } from 'vitest';
import { checkOutput } from '../../../src/api/admission.ts';
import { outputSize, resolveParams } from '../../../src/jobs/params.ts';

const params = (scale: number, format: 'png' | 'jpeg' | 'webp' | 'avif' = 'png') =>
  resolveParams({ scale, format }, 'any');

test('an output is exactly round(scale × input), and never empty', () => {
  expect(outputSize({ width: 131, height: 97 }, 4)).toEqual({ width: 524, height: 388 });
  expect(outputSize({ width: 3, height: 1 }, 1.5)).toEqual({ width: 5, height: 2 });
  expect(outputSize({ width: 1, height: 1 }, 1)).toEqual({ width: 1, height: 1 });
});

test('the pixel limit holds to the pixel, and the advice fits it', () => {
  expect(() => checkOutput({ width: 10, height: 10 }, params(4), 1600)).not.toThrow();
  expect(() => checkOutput({ width: 10, height: 10 }, params(4), 1599)).toThrow(/scale of 3\.94 /);
  expect(() => checkOutput({ width: 10, height: 10 }, params(3.94), 1599)).not.toThrow();
  expect(() => checkOutput({ width: 100, height: 100 }, params(1), 1599)).toThrow(/smaller image/);
});

test.each([
  ['webp', 16_383],
  ['avif', 16_384],
  ['jpeg', 65_500],
] as const)('%s holds %d pixels on a side', (format, side) => {
  const limit = 1e9;
  expect(() => checkOutput({ width: side, height: 1 }, params(1, format), limit)).not.toThrow();
  expect(() => checkOutput({ width: 1, height: side + 1 }, params(1, format), limit)).toThrow(
    `${format} holds at most ${side} on a side`,
  );
  expect(() => checkOutput({ width: side + 1, height: 1 }, params(1), limit)).not.toThrow();
});
