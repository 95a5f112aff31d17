/** The index of what is kept for other dials, on a real Redis. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import type { KeptObject } from '../../src/jobs/job.ts';
import { forgetKept, keepObjects, sumKept, useKept } from '../../src/jobs/kept-objects.ts';
import { metrics } from '../../src/metrics.ts';
import { openStore } from '../../src/storage/open-store.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

let redis: TestRedis;
beforeAll(async () => {
  redis = await startRedis();
});
beforeEach(() => redis.client.flushall());
afterAll(() => redis.stop());

const object = (key: string, bytes: number, lifeMs = 60_000): KeptObject => ({
  key,
  bytes,
  expiresAt: Date.now() + lifeMs,
});
const use = (objects: KeptObject[], source?: string, maxBytes = 1000) =>
  useKept(redis.client, objects, { maxBytes, ...(source ? { source } : {}) });
const ofOne = [object('input/a', 100), object('latents/a', 300)];
const keys = ofOne.map(({ key }) => key);

test('an object that is used again counts once; over the limit the least recently used go', async () => {
  expect(await use(ofOne)).toEqual([]);
  expect(await use(ofOne, 'input/a')).toEqual([]);
  expect(await sumKept(redis.client)).toBe(400);
  const others = [object('input/b', 100), object('latents/b', 600)];
  expect(await use(others)).toEqual(['latents/a']);
  expect(await sumKept(redis.client)).toBe(800);
});

test('what goes for newer objects is deleted from the store, and counted', async () => {
  const store = openStore(
    { kind: 'redis', redisUrl: redis.url },
    { role: 'consumer', sweep: false },
  );
  const evictions = async (): Promise<number> =>
    (await metrics.keptEvictions.get()).values[0]?.value ?? 0;
  const before = await evictions();
  for (const key of keys) await store.put(key, Buffer.from('kept'), 60);
  const owner = { redis: redis.client, store };
  await keepObjects(owner, ofOne, { maxBytes: 1000 });
  expect(await evictions()).toBe(before);
  await keepObjects(owner, [object('input/b', 1000)], { maxBytes: 1000 });
  expect(await evictions()).toBe(before + 2);
  expect(await Promise.all(keys.map((key) => store.has(key)))).toEqual([false, false]);
  await store.close();
});

test('what was deleted or has expired is not counted, though nothing is kept after it', async () => {
  await use([object('input/a', 100), object('latents/a', 300, -1), object('input/b', 50)]);
  expect(await sumKept(redis.client)).toBe(150);
  await forgetKept(redis.client, ['input/b']);
  expect(await sumKept(redis.client)).toBe(100);
});

test('what is deleted to make room leaves the index of a Redis whose memory is full', async () => {
  await use(ofOne);
  await redis.client.config('SET', 'maxmemory', '1');
  await forgetKept(redis.client, keys);
  expect(await sumKept(redis.client)).toBe(0);
  await redis.client.config('SET', 'maxmemory', '0');
});

test.each([
  ['deleted', () => forgetKept(redis.client, keys)],
  ['expired', () => use([object('input/a', 100, -1)])],
])('what a job adds to one that was %s meanwhile goes, and is not counted', async (_, lose) => {
  await use(ofOne);
  await use([object('input/b', 200)]);
  await lose();
  const more = [...ofOne.slice(1), object('epspix/a', 300)];
  const evicted = await use(more, 'input/a');
  expect(evicted.sort()).toEqual(['epspix/a', 'latents/a']);
  expect(await sumKept(redis.client)).toBe(200);
  expect(await redis.client.hkeys('pisa:kept:bytes')).toEqual(['input/b']);
});
