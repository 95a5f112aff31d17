/** Our signatures against the verifier that receivers use. */
import { randomBytes } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { describe, expect, test } from 'vitest';
import { retryDelayMs } from '../../../src/webhooks/retry-schedule.ts';
import { parseSecret, webhookHeaders } from '../../../src/webhooks/signature.ts';

const newSecret = (bytes = 32): string => `whsec_${randomBytes(bytes).toString('base64')}`;
const keysOf = (...secrets: string[]): Buffer[] =>
  secrets.map((secret) => parseSecret(secret) ?? expect.fail('no secret'));
const now = (): number => Math.floor(Date.now() / 1000);

describe('signatures', () => {
  const body = '{"type":"upscale.succeeded","data":{"name":"Zoë ✓"}}';

  test('are what the verifier accepts, for secrets of every allowed length', () => {
    for (const length of [24, 25, 26, 32, 64]) {
      const secret = newSecret(length);
      const headers = webhookHeaders(keysOf(secret), 'job-1', now(), body);
      expect(new Webhook(secret).verify(body, headers)).toEqual(JSON.parse(body));
      // The library's own signer says the same.
      const at = new Date(Number(headers['webhook-timestamp']) * 1000);
      expect(new Webhook(secret).sign('job-1', at, body)).toBe(headers['webhook-signature']);
    }
  });

  test('do not fit another body, id, time or secret', () => {
    const secret = newSecret();
    const verifier = new Webhook(secret);
    const headers = webhookHeaders(keysOf(secret), 'job-1', now(), body);
    expect(() => verifier.verify(`${body} `, headers)).toThrow();
    expect(() => verifier.verify(body, { ...headers, 'webhook-id': 'job-2' })).toThrow();
    const later = String(Number(headers['webhook-timestamp']) + 1);
    expect(() => verifier.verify(body, { ...headers, 'webhook-timestamp': later })).toThrow();
    expect(() => new Webhook(newSecret()).verify(body, headers)).toThrow();
    const old = webhookHeaders(keysOf(secret), 'job-1', now() - 3600, body);
    expect(() => verifier.verify(body, old)).toThrow(/too old/);
  });

  test('while a secret is changed, fit the old one and the new one', () => {
    const [before, after] = [newSecret(), newSecret()];
    const headers = webhookHeaders(keysOf(after, before), 'job-1', now(), body);
    for (const secret of [before, after]) {
      expect(new Webhook(secret).verify(body, headers)).toEqual(JSON.parse(body));
    }
  });
});

test('a secret is whsec_ and the base64 of 24 to 64 bytes', () => {
  for (const length of [24, 64]) expect(parseSecret(newSecret(length))).toHaveLength(length);
  for (const text of ['', 'whsec_', newSecret(23), newSecret(65), 'whsec_not base64!', 'secret']) {
    expect(parseSecret(text)).toBeUndefined();
  }
});

describe('the retry schedule', () => {
  const schedule = [5, 60, 3600];

  test('waits as scheduled, up to a tenth longer', () => {
    expect([1, 2, 3, 4, 99].map((made) => retryDelayMs(schedule, made, 0, 0))).toEqual([
      5000, 60_000, 3_600_000, 3_600_000, 3_600_000,
    ]);
    expect(retryDelayMs(schedule, 2, 0, 0.5)).toBe(63_000);
    expect(retryDelayMs(schedule, 2, 0, 0.999)).toBeLessThanOrEqual(66_000);
  });

  test('waits at least as long as the receiver asks, at most a day', () => {
    expect(retryDelayMs(schedule, 1, 30_000, 0)).toBe(30_000);
    expect(retryDelayMs(schedule, 2, 30_000, 0)).toBe(60_000);
    expect(retryDelayMs(schedule, 1, 1e12, 0)).toBe(86_400_000);
  });
});
