/** A bucket that stops in the middle of an object. That streams work on a real server, s3-store.test.ts shows. */
import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Redis } from 'ioredis';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { S3Store } from '../../../src/storage/s3-store.ts';

let server: Server;
let store: S3Store;
/** Answers of the server that have not ended. */
let open: Set<ServerResponse>;

beforeEach(async () => {
  const answers = new Set<ServerResponse>();
  open = answers;
  server = createServer((request, response) => {
    answers.add(response);
    response.once('close', () => answers.delete(response));
    const expires = String(Date.now() + 600_000);
    response.writeHead(200, { 'content-length': 200, 'x-amz-meta-expires-at': expires });
    if (request.method === 'HEAD') response.end();
    else response.write(Buffer.alloc(100));
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
  const failed = expect(rest).rejects.toMatchObject({
    code: 'storage_unavailable',
    cause: { message: 'S3 stopped sending.' },
  });
  await vi.advanceTimersByTimeAsync(14_000);
  expect(stream?.destroyed).toBe(false);
  await vi.advanceTimersByTimeAsync(2000);
  await failed;
});

test.each([
  ['before its first piece', 0],
  ['after it', 1],
])('lets go of S3 when its reader leaves %s', async (_, pieces) => {
  const stream = await store.stream('output/a');
  const iterator = stream?.[Symbol.asyncIterator]();
  for (let piece = 0; piece < pieces; piece += 1) await iterator?.next();
  expect(open.size).toBe(1);
  stream?.destroy();
  await expect.poll(() => open.size, { timeout: 10_000 }).toBe(0);
});

test('of many clients that read slowly keep nobody else out', async () => {
  const streams = await Promise.all(Array.from({ length: 60 }, () => store.stream('output/a')));
  expect(await store.has('output/a')).toBe(true);
  for (const stream of streams) stream?.destroy();
});

test('has no connection that anything else could wait for', async () => {
  const byMethod: Record<string, Set<Socket>> = { HEAD: new Set(), GET: new Set() };
  server.on('request', ({ method = '', socket }) => byMethod[method]?.add(socket));
  await store.has('output/a');
  await store.has('output/a');
  const stream = await store.stream('output/a');
  // The connection of a question is kept for the next one.
  expect(byMethod.HEAD?.size).toBe(1);
  expect([...(byMethod.GET ?? [])].filter((socket) => byMethod.HEAD?.has(socket))).toEqual([]);
  stream?.destroy();
});
