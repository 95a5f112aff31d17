/** Which of the jobs that are tried again get a device for themselves. */
import { expect, test } from 'vitest';
import { AppError, type ErrorCode, toFailure } from '../../../src/errors.ts';
import { runsAlone } from '../../../src/worker/runs-alone.ts';

const first = { attemptsMade: 0, stalledCounter: 0, failedReason: '' };
const after = (code: ErrorCode) => ({
  ...first,
  attemptsMade: 1,
  failedReason: JSON.stringify(toFailure(new AppError(code, 'so it went'))),
});

test('a first attempt does not, nor does one that was handed back', () => {
  expect(runsAlone(first)).toBe(false);
});

test.each(['device_lost', 'out_of_device_memory', 'internal'] as const)(
  'after %s it does',
  (code) => {
    expect(runsAlone(after(code))).toBe(true);
  },
);

test.each(['storage_unavailable', 'disk_full'] as const)('after %s it does not', (code) => {
  expect(runsAlone(after(code))).toBe(false);
});

test('one whose worker died does, whatever failed before', () => {
  expect(runsAlone({ ...first, stalledCounter: 1 })).toBe(true);
  expect(runsAlone({ ...after('storage_unavailable'), stalledCounter: 1 })).toBe(true);
});

test('a third attempt does: what failed before the last one is not known', () => {
  expect(runsAlone({ ...after('storage_unavailable'), attemptsMade: 2 })).toBe(true);
});
