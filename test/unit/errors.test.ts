import { expect, test } from 'vitest';
import {
  AppError,
  errorCatalogue,
  expected,
  fromFailureText,
  toAppError,
  toFailure,
  toldInFull,
  toProblem,
} from '../../src/errors.ts';

test('a problem object has the members of RFC 9457 and the stable code', () => {
  const error = new AppError('invalid_parameter', 'pix is 3', {
    errors: [{ pointer: '#/query/pix', detail: 'must be <= 2' }],
  });
  expect(toProblem(error)).toEqual({
    type: 'urn:pisa-serve:problem:invalid_parameter',
    title: errorCatalogue.invalid_parameter.title,
    status: 422,
    code: 'invalid_parameter',
    detail: 'pix is 3',
    errors: [{ pointer: '#/query/pix', detail: 'must be <= 2' }],
  });
});

test('a foreign error tells nothing of its inside, but keeps it as the cause', () => {
  const foreign = new Error('password is hunter2');
  const error = toAppError(foreign);
  expect(JSON.stringify(toProblem(error))).not.toContain('hunter2');
  expect(error.cause).toBe(foreign);
});

test('an operator is told the cause, too, and once', () => {
  const cause = new Error('CUDA failure 2: out of memory\n');
  expect(toldInFull(new AppError('internal', 'It failed.', { cause }))).toBe(
    'It failed. The cause: CUDA failure 2: out of memory',
  );
  const told = 'It failed: CUDA failure 2: out of memory. Buy more.';
  expect(toldInFull(new AppError('internal', told, { cause }))).toBe(told);
  expect(toldInFull(new AppError('internal', 'It failed.'))).toBe('It failed.');
});

test('an error crosses Redis as text and comes back with its code', () => {
  const error = new AppError('corrupt_image', 'The PNG ends early.');
  const back = fromFailureText(JSON.stringify(toFailure(error)));
  expect(back).toMatchObject({ code: 'corrupt_image', message: 'The PNG ends early.' });
});

test.each(['job stalled more than allowable limit', '{"code":"nonsense"}', '{', 'null'])(
  'the failure text %j, which we did not write, is a lost device',
  (text) => {
    expect(fromFailureText(text).code).toBe('device_lost');
  },
);

test('a long received value is cut', () => {
  expect(expected('a number', 'pix', 'x'.repeat(500)).length).toBeLessThan(200);
});
