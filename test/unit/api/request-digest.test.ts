/** The bytes of an upload are gone through once, and other requests have their turn meanwhile. */
import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { resolveJobOptions } from '../../../src/api/job-options.ts';
import { digestFiles, requestFingerprint } from '../../../src/api/request-digest.ts';
import { loadConfig } from '../../../src/config.ts';
import { resolveParams } from '../../../src/jobs/params.ts';

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

describe('the fingerprint of a request', () => {
  const secret = `whsec_${Buffer.alloc(32).toString('base64')}`;
  const of = (query: Record<string, unknown>, env: Record<string, string> = {}): string => {
    const config = loadConfig({ WEBHOOK_SECRET: secret, ...env });
    const asked = {
      params: resolveParams(query, config.MODEL),
      ...resolveJobOptions(query, config),
    };
    return requestFingerprint(['image', null, null], asked, query);
  };
  const webhook = 'https://example.com/hook';

  test.each([{}, { sem: 0.5, ttl: 60 }, { webhook, priority: 'batch' }])(
    'of %j is the same under other settings',
    (query) => {
      const changed = {
        MODEL: 'other',
        RESULT_TTL_SECONDS: '77',
        MAX_RESULT_TTL_SECONDS: '7777',
        JOB_TIMEOUT_SECONDS: '66',
        WEBHOOK_RETRY_SECONDS: '1,2,3',
      };
      expect(of(query, changed)).toBe(of(query));
    },
  );

  test('is the same for what is the default anyway, and another for all else', () => {
    expect(of({ pix: 1, sem: 1, priority: 'interactive' })).toBe(of({}));
    const others = [
      { model: 'pisa-tiny' },
      { ttl: 60 },
      { timeout: 60 },
      { webhook },
      { webhook: `${webhook}2` },
      { priority: 'batch' },
      { format: 'webp' },
      { sem: 0.5 },
    ];
    expect(new Set([{}, ...others].map((query) => of(query))).size).toBe(others.length + 1);
  });
});
