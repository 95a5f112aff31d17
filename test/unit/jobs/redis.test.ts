import { describe, expect, test } from 'vitest';
import { AppError } from '../../../src/errors.ts';
import { redisOptions } from '../../../src/jobs/redis.ts';
import { explainForbidden, isFull, orUnavailable } from '../../../src/jobs/redis-faults.ts';

describe('redisOptions', () => {
  test.each([
    ['redis://example.org', { host: 'example.org', port: 6379, db: 0 }],
    ['redis://:p%40ss@10.0.0.1:7000/3', { host: '10.0.0.1', port: 7000, db: 3, password: 'p@ss' }],
    ['redis://me:secret@example.org', { username: 'me', password: 'secret' }],
    ['redis://[::1]:6380', { host: '::1', port: 6380 }],
    ['rediss://example.org', { host: 'example.org', tls: { servername: 'example.org' } }],
    ['unix:///run/redis%20dir/redis.sock?db=2', { path: '/run/redis dir/redis.sock', db: 2 }],
  ])('%s', (url, expected) => {
    expect(redisOptions(url, 'consumer')).toMatchObject(expected);
  });

  test('only rediss:// is encrypted', () => {
    expect(redisOptions('redis://example.org', 'consumer').tls).toBeUndefined();
  });

  test.each([
    'http://example.org',
    'example.org:6379',
    '',
    'redis://:50%off@example.org',
    'redis://example.org/queue',
    'redis://example.org/1/2',
    'unix:///run/redis.sock?db=x',
  ])('refuses %j', (url) => {
    expect(() => redisOptions(url, 'consumer')).toThrow(
      expect.objectContaining({ code: 'invalid_config' }),
    );
  });

  test('a producer fails at once, a consumer waits, both come back soon', () => {
    const producer = redisOptions('redis://h', 'producer');
    const atOnce = { enableOfflineQueue: false, maxRetriesPerRequest: 1 };
    expect(producer).toMatchObject(atOnce);
    const patient = { commandTimeout: 60_000, socketTimeout: 20_000 };
    expect(redisOptions('redis://h', 'producer', patient)).toMatchObject({ ...atOnce, ...patient });
    const consumer = redisOptions('redis://h', 'consumer');
    expect(consumer.maxRetriesPerRequest).toBeNull();
    expect(consumer.enableOfflineQueue).toBeUndefined();
    for (const times of [1, 5, 50, 5000]) {
      expect(consumer.retryStrategy(times)).toBeGreaterThan(0);
      expect(consumer.retryStrategy(times)).toBeLessThanOrEqual(2000);
    }
  });
});

describe('orUnavailable', () => {
  test.each([
    new Error('Connection is closed.'),
    new Error("Stream isn't writeable and enableOfflineQueue options is false"),
    new Error('Command timed out'),
    Object.assign(new Error('LOADING Redis is loading the dataset in memory'), {
      name: 'ReplyError',
    }),
    Object.assign(new Error('connect ECONNREFUSED 127.0.0.1:6379'), { code: 'ECONNREFUSED' }),
  ])('tells $message as redis_unavailable and keeps the cause', async (cause) => {
    await expect(orUnavailable(() => Promise.reject(cause))).rejects.toMatchObject({
      code: 'redis_unavailable',
      cause,
    });
  });

  const aof = 'Errors writing to the AOF file: No space left on device';
  test.each([
    [`MISCONF ${aof}`, aof],
    [`MISCONF ${aof}\n`, aof],
    [`MISCONF ${aof} script: a9c3, on @user_script:1.`, aof],
    [`ERR Error running script (call to f_a9c3): @user_script:1: -MISCONF ${aof}`, aof],
    [
      "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled.",
      "Redis is configured to save RDB snapshots, but it's currently unable to persist to disk",
    ],
    [
      "OOM command not allowed when used memory > 'maxmemory'.",
      "command not allowed when used memory > 'maxmemory'",
    ],
    [
      "READONLY You can't write against a read only replica.",
      "You can't write against a read only replica",
    ],
  ])('says why Redis refuses to write: %s', async (reply, reason) => {
    const cause = Object.assign(new Error(reply), { name: 'ReplyError' });
    await expect(orUnavailable(() => Promise.reject(cause))).rejects.toMatchObject({
      code: 'redis_unavailable',
      message: `Redis refuses writes: ${reason}. Try again in a minute; its operator has to see to that.`,
      retryAfterSeconds: 30,
      cause,
    });
  });

  test('finds in a transaction what Redis forbids', async () => {
    const rule = "NOPERM this user has no permissions to run the 'set' command";
    const cause = Object.assign(
      new Error('EXECABORT Transaction discarded because of previous errors.'),
      { name: 'ReplyError', previousErrors: [new Error(rule)] },
    );
    await expect(orUnavailable(() => Promise.reject(cause))).rejects.toMatchObject({
      message: expect.stringContaining(`Redis forbids what this takes: ${rule}.`),
      retryAfterSeconds: 30,
    });
    expect(explainForbidden(cause)).toMatchObject({
      code: 'invalid_config',
      message: expect.stringContaining(`what the service does: ${rule}.`),
    });
  });

  test.each([new TypeError('x is not a function'), new AppError('queue_full', 'Full.')])(
    'leaves %s as it is',
    async (error) => {
      await expect(orUnavailable(() => Promise.reject(error))).rejects.toBe(error);
    },
  );
});

test.each([
  ['MISCONF Errors writing to the AOF file: No space left on device', true],
  ["OOM command not allowed when used memory > 'maxmemory'.", true],
  ["READONLY You can't write against a read only replica.", false],
  ["NOPERM this user has no permissions to run the 'set' command", false],
  ['LOADING Redis is loading the dataset in memory', false],
])('isFull: %s → %s', (text, full) => {
  const aborted = Object.assign(new Error('EXECABORT'), { previousErrors: [new Error(text)] });
  expect([isFull(new Error(text)), isFull(aborted)]).toEqual([full, full]);
});
