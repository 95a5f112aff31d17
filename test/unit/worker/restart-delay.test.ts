import { expect, test } from 'vitest';
import { RestartDelay } from '../../../src/worker/restart-delay.ts';

test('doubles with each failure in a row, up to half a minute', () => {
  const delay = new RestartDelay(500);
  const delays = Array.from({ length: 8 }, () => delay.next(true, 1000));
  expect(delays).toEqual([500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
});

test('starts again after a long life, and waits for nothing when we ended a sound process', () => {
  const delay = new RestartDelay(500);
  delay.next(true, 1000);
  delay.next(true, 1000);
  expect(delay.next(true, 61_000)).toBe(500);
  expect(delay.next(true, 1000)).toBe(1000);
  expect(delay.next(false, 1000)).toBe(0);
  expect(delay.next(true, 1000)).toBe(500);
});
