import path from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { FolderStore } from '../../src/storage/folder-store.ts';
import type { ObjectStore } from '../../src/storage/object-store.ts';
import { openStore, storeLocation } from '../../src/storage/open-store.ts';
import { RedisStore } from '../../src/storage/redis-store.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';

const key = 'output/7f0b7d1c-0000-4000-8000-000000000000';
const bytes = Buffer.from([0, 255, 128, 10, 13]);
let redis: TestRedis;
let store: ObjectStore;

beforeAll(async () => {
  redis = await startRedis();
  store = openStore({ kind: 'redis', redisUrl: redis.url }, { role: 'consumer' });
});
afterAll(async () => {
  await store.close();
  await redis.stop();
});

test('gives back what was put, byte for byte, until it is deleted', async () => {
  expect(await store.get(key)).toBeUndefined();
  await store.put(key, bytes, 60);
  expect(await store.get(key)).toEqual(bytes);
  await store.put(key, new Uint8Array(bytes.buffer, bytes.byteOffset + 1, 2), 60);
  expect([...((await store.get(key)) ?? [])]).toEqual([255, 128]);
  await store.delete(key);
  expect(await store.get(key)).toBeUndefined();
  await store.delete(key);
});

test('lets Redis end the life of an object', async () => {
  await store.put(key, bytes, 59.2);
  expect(await redis.client.ttl(`pisa:object:${key}`)).toBe(60);
  await store.put(key, bytes, 0.001);
  await expect.poll(() => store.get(key)).toBeUndefined();
});

test('refuses a key that is not ours', async () => {
  await expect(store.get('bull:upscale:1')).rejects.toThrow('Not a storage key');
});

test('STORAGE says where: a folder, Redis, and by default what fits the Redis', () => {
  const at = (STORAGE: string, privateRedis: boolean) =>
    storeLocation({ STORAGE, DATA_DIR: '/data' }, redis.url, privateRedis);
  expect(at('folder:/images', false)).toEqual({ kind: 'folder', folder: '/images' });
  expect(at('redis', true)).toEqual({ kind: 'redis', redisUrl: redis.url });
  expect(at('', true)).toEqual({ kind: 'folder', folder: path.join('/data', 'objects') });
  expect(at('', false)).toEqual({ kind: 'redis', redisUrl: redis.url });
});

test('openStore opens what the location says', async () => {
  const folder = openStore(
    { kind: 'folder', folder: path.join(redis.folder, 'objects') },
    { role: 'producer' },
  );
  expect(folder).toBeInstanceOf(FolderStore);
  expect(store).toBeInstanceOf(RedisStore);
  await folder.close();
});
