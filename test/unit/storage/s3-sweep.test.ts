/** How a bucket is swept: what the server is asked, and when. That it works on a real server, s3-store.test.ts shows. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { S3Store } from '../../../src/storage/s3-store.ts';

let server: Server;
let store: S3Store;
/** Method and key of every request. */
let requests: string[];
let open: number;
let mostOpen: number;
/** What the server answers to everything. */
let status: number;
/** The index: scores by key. */
let index: Map<string, number>;

/** As much of Redis as a sweep asks of its index. */
const redis = {
  zrangebyscore: async (
    ...[, , most, , , count]: [string, string, number, string, number, number]
  ) => [...index].flatMap(([key, score]) => (score <= most ? [key] : [])).slice(0, count),
  zscore: async (_: string, key: string) => index.get(key)?.toString() ?? null,
  zrem: async (_: string, key: string) => Number(index.delete(key)),
  disconnect: () => undefined,
};

beforeEach(async () => {
  [requests, open, mostOpen, status, index] = [[], 0, 0, 404, new Map()];
  server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url?.split(/[/?]/).at(3)}`);
    open += 1;
    mostOpen = Math.max(mostOpen, open);
    // In a later turn, when those that come together are here.
    setTimeout(() => {
      open -= 1;
      response.writeHead(status).end();
    }, 5);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  const location = {
    bucket: 'bucket',
    prefix: '',
    region: 'us-east-1',
    endpoint: `http://127.0.0.1:${port}`,
    credentials: { accessKeyId: 'a', secretAccessKey: 'b' },
  };
  const options = { redis: redis as unknown as Redis, role: 'producer', sweep: false } as const;
  store = new S3Store(location, options);
});
afterEach(async () => {
  await store.close();
  server.closeAllConnections();
  server.close();
});

const expire = (count: number) => {
  for (let i = 0; i < count; i++) index.set(`output/${i}`, 1);
};
const sorted = (): string[] => [...requests].sort();

test('a sweep that begins while another runs is that one; the next is another', async () => {
  expire(3);
  await Promise.all([store.sweep(), store.sweep()]);
  const once = ['DELETE', 'HEAD'].flatMap((method) => [0, 1, 2].map((key) => `${method} ${key}`));
  expect(sorted()).toEqual(once);
  expect(index.size).toBe(0);
  expire(1);
  await store.sweep();
  expect(requests).toHaveLength(8);
});

test('several objects go at a time, but not all at once', async () => {
  expire(600);
  index.set('output/alive', Date.now() + 60_000);
  await store.sweep();
  expect([...index.keys()]).toEqual(['output/alive']);
  expect(requests).toHaveLength(1200);
  expect(mostOpen).toBeGreaterThan(4);
  expect(mostOpen).toBeLessThanOrEqual(16);
});

test('a bucket that refuses ends a sweep soon, and the next one tries again', async () => {
  expire(40);
  status = 403;
  await expect(store.sweep()).rejects.toMatchObject({ code: 'storage_unavailable' });
  expect(requests.length).toBeLessThanOrEqual(16);
  status = 404;
  await store.sweep();
  expect(index.size).toBe(0);
});
