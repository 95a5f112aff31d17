import path from 'node:path';
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  onTestFinished,
  test,
} from 'vitest';
import { loadConfig } from '../../src/config.ts';
import { FolderStore } from '../../src/storage/folder-store.ts';
import type { ObjectStore } from '../../src/storage/object-store.ts';
import { openStore, storeLocation } from '../../src/storage/open-store.ts';
import { RedisStore } from '../../src/storage/redis-store.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { describeStore } from '../support/store-contract.ts';

const key = 'output/7f0b7d1c-0000-4000-8000-000000000000';
const bytes = Buffer.from([0, 255, 128, 10, 13]);
let redis: TestRedis;
let store: ObjectStore;

beforeAll(async () => {
  redis = await startRedis();
  store = openStore({ kind: 'redis', redisUrl: redis.url }, { role: 'consumer' });
});
beforeEach(() => redis.client.flushall());
afterAll(async () => {
  await store.close();
  await redis.stop();
});

describeStore(() => store);

test('lets Redis end the life of an object', async () => {
  await store.put(key, bytes, 59.2);
  expect(await redis.client.ttl(`pisa:object:${key}`)).toBe(60);
  await store.put(key, bytes, 0.001);
  await expect.poll(() => store.get(key)).toBeUndefined();
});

test('asks Redis for no more of a stream than is read, and fails where the rest has gone', async () => {
  const asked = async () =>
    /cmdstat_getrange:calls=(\d+)/.exec(await redis.client.info('commandstats'))?.[1];
  await redis.client.config('RESETSTAT');
  await store.put(key, Buffer.alloc(8_388_608, 1), 60);
  const stream = await store.stream(key);
  const pieces = stream?.[Symbol.asyncIterator]();
  expect((await pieces?.next())?.value).toHaveLength(1_048_576);
  expect(Number(await asked())).toBeLessThanOrEqual(3);
  await store.delete(key);
  const rest = async () => {
    while (!(await pieces?.next())?.done);
  };
  await expect(rest()).rejects.toMatchObject({ code: 'storage_unavailable' });
});

describe('a Redis that refuses writes', () => {
  const refused = (words: RegExp) => ({
    code: 'storage_unavailable',
    status: 503,
    retryable: true,
    retryAfterSeconds: 30,
    message: expect.stringMatching(words),
  });
  afterEach(async () => {
    await redis.client.config('SET', 'maxmemory', '0');
    await redis.client.replicaof('NO', 'ONE');
  });

  test('for want of memory is a store that has no room, until it has', async () => {
    await store.put(key, bytes, 60);
    const [, used] = /used_memory:(\d+)/.exec(await redis.client.info('memory')) ?? [];
    // Room for commands, and none for images.
    await redis.client.config('SET', 'maxmemory', String(Number(used) + 2_000_000));
    const large = Buffer.alloc(8_000_000);
    const full = refused(/^Redis refuses to store images: command not allowed when used memory/);
    await expect(store.put('output/a', large, 60)).rejects.toMatchObject(full);
    expect(await store.get(key)).toEqual(bytes);
    await redis.client.config('SET', 'maxmemory', '1');
    await expect(store.copy(key, 'output/b', 60)).rejects.toMatchObject(full);
    await store.delete(key);
    await redis.client.config('SET', 'maxmemory', '0');
    await store.put('output/a', large, 60);
    expect(await store.has('output/a')).toBe(true);
  });

  test('as a replica is one that is written to elsewhere by now', async () => {
    await redis.client.replicaof('127.0.0.1', 1);
    const replica = refused(/can't write against a read only replica/);
    await expect(store.put(key, bytes, 60)).rejects.toMatchObject(replica);
    await expect(store.delete(key)).rejects.toMatchObject(replica);
    await redis.client.replicaof('NO', 'ONE');
    await store.put(key, bytes, 60);
  });
});

test('an upload may take longer than any other command, but none waits for a Redis that is away', async () => {
  const api = openStore({ kind: 'redis', redisUrl: redis.url }, { role: 'producer' });
  onTestFinished(() => api.close());
  await expect.poll(() => api.has(key).catch(() => undefined)).toBe(false);
  // Stands for a slow network: longer than commands to the queue may take.
  await redis.client.client('PAUSE', 7000, 'WRITE');
  await api.put(key, bytes, 60);
  expect(await api.get(key)).toEqual(bytes);
  await redis.kill();
  await expect(api.put(key, bytes, 60)).rejects.toThrow();
  await redis.restart();
});

test('STORAGE says where: a folder, a bucket, Redis, and by default what fits the Redis', () => {
  const at = (STORAGE: string, privateRedis: boolean, env = {}) =>
    storeLocation(loadConfig({ STORAGE, DATA_DIR: '/data', ...env }), redis.url, privateRedis);
  expect(at('folder:/images', false)).toEqual({ kind: 'folder', folder: '/images' });
  expect(at('redis', true)).toEqual({ kind: 'redis', redisUrl: redis.url });
  expect(at('', true)).toEqual({ kind: 'folder', folder: path.join('/data', 'objects') });
  expect(at('', false)).toEqual({ kind: 'redis', redisUrl: redis.url });
  const s3 = { bucket: 'my-photos', prefix: '', region: 'us-east-1' };
  expect(at('s3://my-photos', true)).toEqual({ kind: 's3', redisUrl: redis.url, s3 });
  const env = {
    S3_ENDPOINT: 'http://127.0.0.1:9000',
    S3_REGION: 'eu-west-1',
    S3_ACCESS_KEY_ID: 'us',
    S3_SECRET_ACCESS_KEY: 'secret',
  };
  expect(at('s3://my-photos/up/scaled', false, env)).toMatchObject({
    s3: {
      bucket: 'my-photos',
      prefix: 'up/scaled',
      region: 'eu-west-1',
      endpoint: 'http://127.0.0.1:9000',
      credentials: { accessKeyId: 'us', secretAccessKey: 'secret' },
    },
  });
  const half = () => at('s3://my-photos', false, { S3_ACCESS_KEY_ID: 'us' });
  expect(half).toThrow(/S3_SECRET_ACCESS_KEY go together/);
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
