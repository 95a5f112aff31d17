import { randomBytes } from 'node:crypto';
import { pino } from 'pino';
import { expect, test } from 'vitest';
import { loadConfig } from '../../../src/config.ts';
import { loggerOptions } from '../../../src/logging/logger.ts';
import { createScrub } from '../../../src/logging/scrub.ts';

const apiKey = `pisa_${randomBytes(32).toString('base64url')}`;
const webhookSecret = `whsec_${randomBytes(32).toString('base64')}`;
const config = loadConfig({
  WEBHOOK_SECRET: webhookSecret,
  S3_ACCESS_KEY_ID: 'reader',
  S3_SECRET_ACCESS_KEY: 's3/secret"with+signs',
  REDIS_URL: 'rediss://worker:p%40ssw0rd-of-redis@redis.internal:6380/1',
});

/** What a logger of the service writes. */
function written(log: (logger: pino.Logger) => void): string {
  let text = '';
  const destination = {
    write: (line: string) => {
      text += line;
    },
  };
  log(pino(loggerOptions(config, 'test'), destination));
  return text;
}

test.each([
  ['an API key', `refused ${apiKey}`, apiKey],
  ['a webhook secret', `signed with ${webhookSecret}`, webhookSecret],
  ['the same without its prefix', webhookSecret.slice(6), webhookSecret.slice(6)],
  ['a secret that JSON escapes', 'S3 said s3/secret"with+signs', 'with+signs'],
  ['the password of Redis', 'no AUTH for p@ssw0rd-of-redis', 'p@ssw0rd-of-redis'],
  ['the address of Redis', config.REDIS_URL, 'p%40ssw0rd-of-redis'],
  ['a bearer', 'Authorization: Bearer abcdefghijklmnop1234', 'abcdefghijklmnop'],
  [
    "a signed URL's query",
    'GET https://bucket.test/a.png?X-Amz-Signature=deadbeef&b=1',
    'deadbeef',
  ],
  ["somebody's password in a URL", 'https://me:hunter22@host.test/x', 'hunter22'],
  [
    'a password under a long scheme',
    'postgresql-by-way-of-a-driver://me:hunter22@db.test/x',
    'hunter22',
  ],
  ["a long URL's query", `https://bucket.test/${'a-'.repeat(4000)}?sig=deadbeef`, 'deadbeef'],
  ['the query of a URL in a URL', 'https://proxy.test/http://b.test/a?sig=deadbeef', 'deadbeef'],
])('%s is in no line', (_what, message, secret) => {
  const lines = written((logger) => {
    logger.info(message);
    logger.warn({ err: new Error(message, { cause: new Error(message) }), detail: message }, 'x');
  });
  expect(lines).not.toContain(secret);
  expect(lines.match(/\[redacted\]/g)?.length).toBeGreaterThanOrEqual(3);
  for (const line of lines.trim().split('\n')) expect(() => JSON.parse(line)).not.toThrow();
});

test('a password of Redis that is not percent-encoded is in no line either', () => {
  const REDIS_URL = 'redis://:pa%ssword@redis.internal';
  const { hooks } = loggerOptions({ ...config, REDIS_URL }, 'test');
  expect(hooks?.streamWrite?.('no AUTH for pa%ssword')).toBe('no AUTH for [redacted]');
});

test('headers that are secret are left out, should a request be logged whole', () => {
  const headers = {
    authorization: 'x1y2',
    'x-api-key': 'x1y2',
    cookie: 'x1y2',
    accept: 'image/png',
  };
  const lines = written((logger) => logger.info({ headers, req: { headers } }, 'request'));
  expect(lines).not.toContain('x1y2');
  expect(lines).toContain('image/png');
});

test('of an error only what tells what happened is kept', () => {
  const error = Object.assign(new Error('WRONGPASS invalid'), {
    code: 'E_REDIS',
    command: { name: 'auth', args: ['worker', 'another-password'] },
  });
  const lines = written((logger) => logger.error({ err: error }, 'queue'));
  expect(lines).not.toContain('another-password');
  const { err } = JSON.parse(lines) as { err: Record<string, string> };
  expect(err).toMatchObject({ type: 'Error', message: 'WRONGPASS invalid', code: 'E_REDIS' });
  expect(err.stack).toContain('scrub.test.ts');
});

test('what is no secret stays as it is', () => {
  const line =
    '{"url":"http://127.0.0.1:8080","file":"file:///srv/app.js:1:2","metric":"pisa_queue_jobs","id":"6f1c","asks":"which? me@host"}';
  expect(createScrub(['', 'abc'])(line)).toBe(line);
});

// Milliseconds each. Were one quadratic, it would take minutes: far over the time that the test has.
test.each([
  'a-',
  'a.b',
  'a:/',
  '://',
  'a://b',
  'a://b:c',
  'a://b/c',
  'a?',
  '?',
  '?#',
  'Bearer ',
  'Basic  ',
  ' ',
  'pisa_',
  '-whsec_',
  'X-Amz-Signature',
])(
  'a long line of %j is gone through once',
  (unit) => {
    const line = `https://host.test/${unit.repeat(200_000 / unit.length)}`;
    expect(createScrub([])(line).length).toBeGreaterThan(0);
  },
  10_000,
);
