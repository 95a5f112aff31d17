/** Results on their way to clients that are slow, leave, or lose their image in the middle. */
import { once } from 'node:events';
import { type AddressInfo, connect, type Socket } from 'node:net';
import path from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { buildApp } from '../../src/api/app.ts';
import { AppError } from '../../src/errors.ts';
import { outputKey } from '../../src/jobs/job.ts';
import { FolderStore } from '../../src/storage/folder-store.ts';
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
async function download(port = api.port): Promise<Socket> {
  const socket = connect(port, '127.0.0.1');
  sockets.push(socket);
  socket.write(`GET /upscale/${id}/result HTTP/1.1\r\nHost: x\r\n\r\n`);
  await once(socket, 'readable');
  expect(String(socket.read(15))).toBe('HTTP/1.1 200 OK');
  return socket;
}

/** What the API streams from now on. */
function streamed(store = api.store): Readable[] {
  const opened: Readable[] = [];
  const stream = store.stream.bind(store);
  vi.spyOn(store, 'stream').mockImplementation(async (key) => {
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

test('are data to a browser, and may be kept by their client for as long as they live', async () => {
  const { headers } = await fetch(`${api.url}/upscale/${id}/result`, { method: 'HEAD' });
  expect(headers.get('content-security-policy')).toBe("default-src 'none'; sandbox");
  expect(headers.get('x-content-type-options')).toBe('nosniff');
  const kept = /^private, max-age=(\d+), immutable$/.exec(headers.get('cache-control') ?? '');
  // Of the sixty seconds of its life (writeFinishedJob) some may be over.
  const { output } = (await api.queue.get(id))?.result ?? {};
  const left = ((output?.expiresAt ?? 0) - Date.now()) / 1000;
  expect(Number(kept?.[1])).toBeGreaterThanOrEqual(Math.floor(left));
  expect(Number(kept?.[1])).toBeLessThanOrEqual(60);
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
  await expect.poll(() => opened[0]?.destroyed).toBe(true);
});

test.each(['before', 'after'])(
  'that wait behind another one on their connection are read no further once their client has left, %s they were opened',
  async (when) => {
    const opened = streamed();
    const socket = await download();
    const firstIsOver = () => expect.poll(() => opened[0]?.destroyed).toBe(true);
    const open = vi.mocked(api.store.stream);
    const stream = open.getMockImplementation();
    open.mockImplementationOnce(async (key) => {
      if (when === 'before') await firstIsOver();
      return stream?.(key);
    });
    socket.write(`GET /upscale/${id}/result HTTP/1.1\r\nHost: x\r\n\r\n`);
    await expect.poll(() => open.mock.calls.length).toBe(2);
    if (when === 'after') await expect.poll(() => opened.length).toBe(2);
    socket.destroy();
    await firstIsOver();
    await expect.poll(() => opened[1]?.destroyed).toBe(true);
    expect(api.log.filter(({ level }) => level > 40)).toEqual([]);
  },
);

test.each(['redis', 'folder'])('of clients that take nothing end, from a %s', async (kind) => {
  const folder = path.join(api.redis.folder, 'objects');
  const { config, queue, logger } = api;
  const store = kind === 'folder' ? new FolderStore(folder, { sweep: false }) : api.store;
  await store.put(outputKey(id), large, 60);
  const opened = streamed(store);
  const app = await buildApp({ config, queue, store, logger });
  // Longer than any request may take: the limit that a test can wait for is shorter.
  expect(app.server.timeout).toBeGreaterThan(config.REQUEST_TIMEOUT_SECONDS * 1000);
  app.server.setTimeout(500);
  await app.listen({ host: '127.0.0.1', port: 0 });
  const { port } = app.server.address() as AddressInfo;
  await download(port);
  await expect.poll(() => opened[0]?.destroyed).toBe(true);
  await app.close();
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
  await expect.poll(warned).toMatchObject([{ level: 40, job: id }]);
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
