/** The room of copied results and their records, counted on a real Redis. */
import { afterEach, beforeEach, expect, test } from 'vitest';
import { admitReuse, forgetReuse } from '../../src/jobs/reused-bytes.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const bounds = { maxBytes: 1000, maxClientBytes: 600 };
let redis: TestRedis;
beforeEach(async () => {
  redis = await startRedis();
});
afterEach(() => redis.stop());

const inAMinute = () => Date.now() + 60_000;
const admit = (name: string, client: string, bytes: number, until = inAMinute()) =>
  admitReuse(redis.client, { client }, [{ name, bytes, until }], bounds);
const forget = (name: string, client: string, bytes: number) =>
  forgetReuse(redis.client, { client }, [{ name, bytes }]);
const taken = () => redis.client.hgetall('pisa:copies:bytes');

test('is bounded for each client and in all, and free again once a copy is deleted', async () => {
  expect(await admit('a', 'shop', 600)).toBe(true);
  expect(await admit('b', 'shop', 1)).toBe(false);
  expect(await admit('c', 'rival', 400)).toBe(true);
  expect(await admit('d', 'rival', 1)).toBe(false);
  expect(await taken()).toEqual({ '*': '1000', shop: '600', rival: '400' });
  for (let times = 0; times < 2; times += 1) await forget('a', 'shop', 600);
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

test('is free again when its time is over', async () => {
  expect(await admit('a', 'shop', 600, Date.now() - 1)).toBe(true);
  expect(await admit('b', 'shop', 600)).toBe(true);
  expect(await admit('c', 'shop', 1)).toBe(false);
  expect(await taken()).toEqual({ '*': '600', shop: '600' });
});

test('of several objects is taken for all or for none, and of each for as long as it is there', async () => {
  const two = (bytes: number) => [
    { name: `copy${bytes}`, bytes, until: Date.now() - 1 },
    { name: `record${bytes}`, bytes, until: inAMinute() },
  ];
  const admitTwo = (bytes: number) =>
    admitReuse(redis.client, { client: 'shop' }, two(bytes), bounds);
  expect(await admitTwo(301)).toBe(false);
  expect(await taken()).toEqual({});
  expect(await admitTwo(300)).toBe(true);
  expect(await taken()).toEqual({ '*': '600', shop: '600' });
  expect(await admit('a', 'shop', 300)).toBe(true);
  expect(await admit('b', 'shop', 1)).toBe(false);
});

test('can be given back in a Redis whose memory is full', async () => {
  await admit('a', 'shop', 600);
  await redis.client.config('SET', 'maxmemory', '1');
  await expect(redis.client.set('x', 'y')).rejects.toThrow(/^OOM/);
  await forget('a', 'shop', 600);
  expect(await taken()).toEqual({});
});
