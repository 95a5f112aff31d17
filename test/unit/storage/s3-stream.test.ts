/** A bucket that stops in the middle of an object. That streams work on a real server, s3-store.test.ts shows. */
import { once } from 'node:events';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { S3Store } from '../../../src/storage/s3-store.ts';

let server: Server;
let store: S3Store;

beforeEach(async () => {
  server = createServer((_request, response) => {
    const expires = String(Date.now() + 600_000);
    response.writeHead(200, { 'content-length': 200, 'x-amz-meta-expires-at': expires });
    response.write(Buffer.alloc(100));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  const credentials = { accessKeyId: 'a', secretAccessKey: 'b' };
  store = new S3Store(
    { bucket: 'bucket', prefix: '', region: 'us-east-1', endpoint, credentials },
    {
      redis: { disconnect: () => undefined } as unknown as Redis,
      role: 'producer',
      sweep: false,
    },
  );
});
afterEach(async () => {
  vi.useRealTimers();
  await store.close();
  server.closeAllConnections();
  server.close();
});

test('is waited for no longer than 15 seconds a piece', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const stream = await store.stream('output/a');
  const pieces = stream?.[Symbol.asyncIterator]();
  expect((await pieces?.next())?.value).toHaveLength(100);
  const rest = pieces?.next();
  const failed = expect(rest).rejects.toThrow('S3 stopped sending');
  await vi.advanceTimersByTimeAsync(14_000);
  expect(stream?.destroyed).toBe(false);
  await vi.advanceTimersByTimeAsync(2000);
  await failed;
});
