import { expect, test } from 'vitest';
import { checkOutput, outputSize, pixelLimits } from '../../../src/jobs/output-size.ts';
import type { OutputFormat } from '../../../src/jobs/params.ts';
import { checkSheet, planSheet } from '../../../src/jobs/sheet.ts';

const params = (scale: number, format: OutputFormat = 'png') => ({ scale, format });

test('an output is exactly round(scale × input), and never empty', () => {
  expect(outputSize({ width: 131, height: 97 }, 4)).toEqual({ width: 524, height: 388 });
  expect(outputSize({ width: 3, height: 1 }, 1.5)).toEqual({ width: 5, height: 2 });
  expect(outputSize({ width: 1, height: 1 }, 1)).toEqual({ width: 1, height: 1 });
});

test('the pixel limit holds to the pixel, and the advice fits it', () => {
  expect(() => checkOutput({ width: 10, height: 10 }, params(4), 1600)).not.toThrow();
  expect(() => checkOutput({ width: 10, height: 10 }, params(4), 1599)).toThrow(/scale of 3\.94 /);
  expect(fault(() => checkOutput({ width: 10, height: 10 }, params(4), 1599))).toMatchObject({
    errors: [{ pointer: '#/query/scale', maximum: 3.94 }],
  });
  expect(() => checkOutput({ width: 10, height: 10 }, params(3.94), 1599)).not.toThrow();
  expect(() => checkOutput({ width: 100, height: 100 }, params(1), 1599)).toThrow(/smaller image/);
});

test('what may be restored follows the largest output, unless it is set to more', () => {
  const settings = { MAX_INPUT_PIXELS: 25, MAX_OUTPUT_PIXELS: 60 };
  const restored = (MAX_RESTORED_PIXELS: number) =>
    pixelLimits({ ...settings, MAX_RESTORED_PIXELS }).maxRestoredPixels;
  expect([0, 1, 70, 400].map(restored)).toEqual([180, 60, 70, 400]);
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

test('a sheet is held to the same limits, in words of its own', () => {
  const sheet = planSheet({ width: 10, height: 10 }, { pix: [0, 1], sem: [1] });
  const pixels = sheet.width * sheet.height;
  const errors = [
    { pointer: '#/query/pix', detail: expect.stringMatching(/^The sheet would have \d+ × \d+/) },
  ];
  expect(() => checkSheet(sheet, 'png', pixels)).not.toThrow();
  expect(fault(() => checkSheet(sheet, 'png', pixels - 1))).toMatchObject({
    code: 'too_many_pixels',
    message: expect.stringMatching(/at most \d+ \(MAX_OUTPUT_PIXELS\)\. Ask for fewer dials/),
    errors,
  });
  const wide = planSheet({ width: 9000, height: 1 }, { pix: [0, 1], sem: [1] });
  expect(fault(() => checkSheet(wide, 'avif', 1e9))).toMatchObject({
    code: 'unsupported_output',
    message: expect.stringMatching(/at most 16384 on a side\. Choose format=png, or fewer dials/),
    errors,
  });
});

test('the parameter to change is named', () => {
  const input = { width: 17_000, height: 1 };
  expect(fault(() => checkOutput(input, params(1), 16_999))).toMatchObject({
    errors: [{ pointer: '#/query/scale', detail: 'The output would have 17000 × 1 pixels.' }],
  });
  expect(fault(() => checkOutput(input, params(1, 'webp'), 17_000))).toMatchObject({
    errors: [{ pointer: '#/query/format' }],
  });
});

function fault(check: () => void): unknown {
  try {
    check();
  } catch (error) {
    return error;
  }
  return undefined;
}
