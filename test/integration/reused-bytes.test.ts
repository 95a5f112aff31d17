/** The room of copied results, counted on a real Redis. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { admitCopy, forgetCopy } from '../../src/jobs/reused-bytes.ts';
import { longestSweepMs } from '../../src/storage/object-store.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const bounds = { maxBytes: 1000, maxClientBytes: 600 };
let redis: TestRedis;
beforeEach(async () => {
  redis = await startRedis();
});
afterEach(() => redis.stop());

const inAMinute = () => Date.now() + 60_000;
const copy = (id: string, client: string, bytes: number) => ({ id, client, bytes });
const admit = (id: string, client: string, bytes: number, expiresAt = inAMinute()) =>
  admitCopy(redis.client, copy(id, client, bytes), expiresAt, bounds);
const taken = () => redis.client.hgetall('pisa:copies:bytes');

test('is bounded for each client and in all, and free again once a copy is deleted', async () => {
  expect(await admit('a', 'shop', 600)).toBe(true);
  expect(await admit('b', 'shop', 1)).toBe(false);
  expect(await admit('c', 'rival', 400)).toBe(true);
  expect(await admit('d', 'rival', 1)).toBe(false);
  expect(await taken()).toEqual({ '*': '1000', shop: '600', rival: '400' });
  for (let times = 0; times < 2; times += 1) await forgetCopy(redis.client, copy('a', 'shop', 600));
  expect(await taken()).toEqual({ '*': '400', rival: '400' });
  expect(await admit('d', 'rival', 200)).toBe(true);
});

test('is not taken twice by a retry, nor by many at once', async () => {
  const again = await Promise.all(Array.from({ length: 5 }, () => admit('a', 'shop', 500)));
  expect(again).toEqual([true, true, true, true, true]);
  expect(await taken()).toEqual({ '*': '500', shop: '500' });
  const others = await Promise.all(
    Array.from({ length: 20 }, (_, index) => admit(`b${index}`, 'rival', 100)),
  );
  expect(others.filter(Boolean)).toHaveLength(5);
});

test('is free again when every store has deleted what has expired', async () => {
  expect(await admit('a', 'shop', 600, Date.now() - longestSweepMs - 1)).toBe(true);
  expect(await admit('b', 'shop', 600, Date.now())).toBe(true);
  expect(await admit('c', 'shop', 1)).toBe(false);
  expect(await taken()).toEqual({ '*': '600', shop: '600' });
});

test('can be given back in a Redis whose memory is full', async () => {
  await admit('a', 'shop', 600);
  await redis.client.config('SET', 'maxmemory', '1');
  await expect(redis.client.set('x', 'y')).rejects.toThrow(/^OOM/);
  await forgetCopy(redis.client, copy('a', 'shop', 600));
  expect(await taken()).toEqual({});
});
