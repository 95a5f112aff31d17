import { expect, test } from 'vitest';
import { parseRetryAfter } from '../../../src/net/retry-after.ts';

test('Retry-After is seconds or a date', () => {
  const at = Date.parse('2030-01-01T00:00:00Z');
  expect(parseRetryAfter('120', at)).toBe(120_000);
  expect(parseRetryAfter('Tue, 01 Jan 2030 00:01:00 GMT', at)).toBe(60_000);
  expect(parseRetryAfter('Mon, 31 Dec 2029 00:01:00 GMT', at)).toBe(0);
  for (const text of [undefined, '', 'soon', '-5', '1e9']) {
    expect(parseRetryAfter(text, at)).toBeUndefined();
  }
});
