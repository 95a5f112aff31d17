/** Results on their way to clients that are slow, leave, or lose their image in the middle. */
import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { outputKey } from '../../src/jobs/job.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { writeFinishedJob } from '../support/finished-job.ts';
import { photo } from '../support/hostile-images.ts';
import { jobData } from '../support/worker.ts';

/** Far more than the buffers of a connection hold. */
const large = Buffer.alloc(48_000_000, 1);
let api: TestApi;
let id: string;
const sockets: Socket[] = [];

beforeEach(async () => {
  api = await startApi();
  const png = await photo('png', 24, 16);
  const input = { ...jobData('', png).input, bytes: large.length };
  id = await writeFinishedJob(api, png, { input });
  await api.store.put(outputKey(id), large, 60);
});
afterEach(async () => {
  vi.restoreAllMocks();
  for (const socket of sockets.splice(0)) socket.destroy();
  await api.stop();
});

/** A client that has the head of the answer and takes no more for now. */
async function download(): Promise<Socket> {
  const socket = connect(api.port, '127.0.0.1');
  sockets.push(socket);
  socket.write(`GET /upscale/${id}/result HTTP/1.1\r\nHost: x\r\n\r\n`);
  await once(socket, 'readable');
  expect(String(socket.read(15))).toBe('HTTP/1.1 200 OK');
  return socket;
}

/** What the API streams from now on. */
function streamed(): Readable[] {
  const opened: Readable[] = [];
  const stream = api.store.stream.bind(api.store);
  vi.spyOn(api.store, 'stream').mockImplementation(async (key) => {
    const bytes = await stream(key);
    if (bytes) opened.push(bytes);
    return bytes;
  });
  return opened;
}

test('arrive whole, and their size is told first', async () => {
  const answer = await fetch(`${api.url}/upscale/${id}/result`);
  expect(answer.headers.get('content-length')).toBe(String(large.length));
  expect(large.equals(Buffer.from(await answer.arrayBuffer()))).toBe(true);
});

test('of many slow clients are not in memory', async () => {
  await download();
  const before = process.memoryUsage().arrayBuffers;
  for (let client = 0; client < 8; client += 1) await download();
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(4 * large.length);
});

test('are read no further once their client has left', async () => {
  const opened = streamed();
  const socket = await download();
  socket.destroy();
  await expect.poll(() => opened[0]?.destroyed, { timeout: 10_000 }).toBe(true);
});

test('are cut, not ended, where the rest cannot be had', async () => {
  const socket = await download();
  await api.store.delete(outputKey(id));
  let received = 0;
  socket.on('data', (bytes: Buffer) => {
    received += bytes.length;
  });
  await once(socket, 'close');
  expect(received).toBeGreaterThan(0);
  expect(received).toBeLessThan(large.length);
  const warned = () => api.log.filter(({ msg }) => msg === 'result broken off');
  await expect.poll(warned, { timeout: 10_000 }).toMatchObject([{ level: 40, job: id }]);
  // Others are served.
  expect((await fetch(`${api.url}/upscale/${id}`)).status).toBe(200);
});

test.each([
  ['redis_unavailable', new Error('Command timed out')],
  ['storage_unavailable', new AppError('storage_unavailable', 'Gone.', { retryAfterSeconds: 5 })],
])('are a problem, %s, where not even their first piece can be had', async (code, error) => {
  const broken = new Readable({ read: () => broken.destroy(error) });
  vi.spyOn(api.store, 'stream').mockResolvedValueOnce(broken);
  const answer = await fetch(`${api.url}/upscale/${id}/result`);
  expect([answer.status, answer.headers.get('etag')]).toEqual([503, null]);
  expect(answer.headers.get('retry-after')).not.toBeNull();
  expect(await answer.json()).toMatchObject({ code });
});
