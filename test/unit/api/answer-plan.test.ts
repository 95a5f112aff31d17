import { describe, expect, test } from 'vitest';
import { parsePrefer } from '../../../src/api/answer-plan.ts';
import { requestId } from '../../../src/api/request-log.ts';
import { matchesEtag } from '../../../src/api/result-headers.ts';

describe('parsePrefer (RFC 7240)', () => {
  test.each([
    [undefined, { respondAsync: false }],
    ['', { respondAsync: false }],
    ['wait=10', { respondAsync: false, waitSeconds: 10 }],
    ['wait="10"', { respondAsync: false, waitSeconds: 10 }],
    ['Wait = 10', { respondAsync: false, waitSeconds: 10 }],
    ['respond-async, wait=10', { respondAsync: true, waitSeconds: 10 }],
    ['RESPOND-ASYNC', { respondAsync: true }],
    [
      'handling=lenient; foo="some parameter", wait=3; bar',
      { respondAsync: false, waitSeconds: 3 },
    ],
    // Of two, the first holds; what is malformed or unknown counts as absent.
    ['wait=1, wait=2', { respondAsync: false, waitSeconds: 1 }],
    ['wait', { respondAsync: false }],
    ['wait=soon', { respondAsync: false }],
    ['wait=-1', { respondAsync: false }],
    ['wait=1.5', { respondAsync: false }],
    ['wait=99999999999', { respondAsync: false }],
    [['respond-async', 'wait=4'], { respondAsync: true, waitSeconds: 4 }],
  ])('%j', (header, preferences) => {
    expect(parsePrefer(header)).toEqual(preferences);
  });
});

test.each([
  [undefined, false],
  ['"a"', true],
  ['W/"a"', true],
  ['"b", "a"', true],
  ['*', true],
  ['a', false],
  ['"b"', false],
])('If-None-Match %s of "a": %s', (header, matches) => {
  expect(matchesEtag(header, '"a"')).toBe(matches);
});

test('a request id is the one of the client only when it is safe to log', () => {
  const of = (id?: string) =>
    requestId({ headers: id === undefined ? {} : { 'x-request-id': id } });
  expect(of('trace-1.a:b@c')).toBe('trace-1.a:b@c');
  for (const unsafe of [undefined, '', 'a b', 'a\n{"level":60}', 'x'.repeat(129)]) {
    expect(of(unsafe)).toMatch(/^[0-9a-f-]{36}$/);
  }
});
