/** The bytes of uploads that an API process holds at once, over slow, cut and hostile connections. */
import { connect, type Socket } from 'node:net';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import type { Problem } from '../../src/errors.ts';
import { sharp } from '../../src/images/sharp-policy.ts';
import { metrics } from '../../src/metrics.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { expectContract } from '../support/contract.ts';
import { writeFinishedJob } from '../support/finished-job.ts';
import { photo } from '../support/hostile-images.ts';
import { type Answer, form, json, parseRaw, rawExchange, send } from '../support/http.ts';
import { leavingClient } from '../support/leaving.ts';
import { startReceiver } from '../support/receiver.ts';

const maxUploadBytes = 600_000;
let api: TestApi;
let png: Buffer;
const sockets: Socket[] = [];

beforeEach(async () => {
  api = await startApi({
    MAX_UPLOAD_BYTES: String(maxUploadBytes),
    UPLOADS_IN_FLIGHT_MEGABYTES: '1',
    IMAGE_URL_ALLOWED_HOSTS: '127.0.0.1',
  });
  png = await photo('png', 24, 16);
});
afterEach(async () => {
  vi.restoreAllMocks();
  for (const socket of sockets.splice(0)) socket.destroy();
  await api.stop();
});

const head = (...lines: string[]): string =>
  `${['POST /upscale HTTP/1.1', 'Host: x', ...lines].join('\r\n')}\r\n\r\n`;
const sized = (bytes: number, ...lines: string[]): string =>
  head('Content-Type: image/png', `Content-Length: ${bytes}`, ...lines);
const chunked = head('Content-Type: image/png', 'Transfer-Encoding: chunked');
const chunk = (bytes: number): Buffer =>
  Buffer.concat([
    Buffer.from(`${bytes.toString(16)}\r\n`),
    Buffer.alloc(bytes),
    Buffer.from('\r\n'),
  ]);
/** Begins an upload and leaves it at that. */
const begin = (...pieces: (string | Uint8Array)[]): Socket => {
  const socket = connect(api.port, '127.0.0.1');
  sockets.push(socket);
  socket.on('error', () => {});
  for (const piece of pieces) socket.write(piece);
  return socket;
};
/** An upload of which all but the last byte has come. */
const slow = (bytes: number): Socket => begin(sized(bytes + 1), Buffer.alloc(bytes));
const held = async () => (await metrics.uploadBytes.get()).values[0]?.value;
const holds = (bytes: number) => expect.poll(held).toBe(bytes);
const post = (init: RequestInit) => send(`${api.url}/upscale`, { method: 'POST', ...init });
const postPng = () => post({ body: new Uint8Array(png), headers: { 'content-type': 'image/png' } });
const expectRefused = (answer: Answer, operation = 'createUpscale'): void => {
  expectContract(answer, operation);
  expect(json<Problem>(answer)).toMatchObject({ status: 503, code: 'too_many_uploads' });
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
};

describe('uploads beyond UPLOADS_IN_FLIGHT_MEGABYTES', () => {
  test('are refused by what they declare, before they are sent, until others have gone', async () => {
    const others = [slow(500_000), slow(400_000)];
    await holds(900_000);
    // Nothing but the head is sent: the answer cannot have read more.
    const asked = [sized(100_001, 'Expect: 100-continue')];
    expectRefused(parseRaw(await rawExchange(api.port, asked)));
    expect(await held()).toBe(900_000);
    // What fits still comes in.
    expect((await postPng()).status).toBe(202);
    others[0]?.destroy();
    await holds(400_000);
    const continued = begin(...asked);
    const told = new Promise((resolve) => continued.once('data', resolve));
    expect(String(await told)).toMatch(/^HTTP\/1.1 100 /);
    expect(await held()).toBe(400_000);
    for (const socket of [...others, continued]) socket.destroy();
    await holds(0);
  });

  test('are not there because somebody announces much and sends nothing', async () => {
    const asked = [sized(maxUploadBytes, 'Expect: 100-continue')];
    for (let client = 0; client < 5; client += 1) {
      const silent = begin(...asked);
      const told = new Promise((resolve) => silent.once('data', resolve));
      expect(String(await told)).toMatch(/^HTTP\/1.1 100 /);
    }
    expect(await held()).toBe(0);
    expect((await postPng()).status).toBe(202);
  });

  test('are refused by what has come where they declare nothing', async () => {
    slow(500_000);
    const growing = begin(chunked, chunk(300_000));
    await holds(800_000);
    growing.write(chunk(100_000));
    await holds(900_000);
    const refused = new Promise<Buffer>((resolve) => growing.once('data', resolve));
    growing.write(chunk(100_001));
    expectRefused(parseRaw((await refused).toString('latin1')));
    await holds(500_000);
  });

  test('are refused as forms too', async () => {
    slow(500_000);
    await holds(500_000);
    const image = { name: 'image', fileName: 'a.png', bytes: Buffer.alloc(500_000) };
    expectRefused(await post(form([image])));
    expect((await post(form([{ ...image, bytes: png }]))).status).toBe(202);
    const { body, headers } = form([image]);
    const stream = new Blob([new Uint8Array(body)]).stream();
    expectRefused(await post({ body: stream, headers, duplex: 'half' } as RequestInit));
    await holds(500_000);
  });

  test('are refused as strength maps of an adjust', async () => {
    const id = await writeFinishedJob(api, png);
    slow(500_000);
    await holds(500_000);
    const adjust = (bytes: Buffer): Promise<Answer> => {
      const map = form([{ name: 'sem_map', fileName: 'a.png', bytes }]);
      return send(`${api.url}/upscale/${id}/adjust`, map);
    };
    expectRefused(await adjust(Buffer.alloc(500_000)), 'adjustUpscale');
    expect((await adjust(png)).status).toBe(202);
    await holds(500_000);
  });

  test('are refused while they are fetched by URL', async () => {
    const host = await startReceiver(({ path }, response) => {
      if (path === '/declares')
        response.writeHead(200, { 'content-length': 500_001 }).flushHeaders();
      if (path === '/grows') response.end(Buffer.alloc(500_001));
      if (path === '/stays') response.write(Buffer.alloc(300_000));
    });
    const fetched = (path: string) =>
      post({
        body: JSON.stringify({ image_url: `${host.url}${path}` }),
        headers: { 'content-type': 'application/json' },
      });
    slow(500_000);
    await holds(500_000);
    // The first host never sends what it declares.
    expectRefused(await fetched('/declares'));
    expectRefused(await fetched('/grows'));
    await holds(500_000);
    const cut = fetched('/stays');
    await holds(800_000);
    await host.stop();
    expect((await cut).status).toBe(424);
    await holds(500_000);
  });

  test('leave nothing behind when their clients leave before they are read', async () => {
    const { body, headers } = form([{ name: 'image', fileName: 'a.png', bytes: png }]);
    const type = `Content-Type: ${(headers as Record<string, string>)['content-type']}`;
    const requests = [
      [sized(500_000)],
      [chunked, chunk(1000)],
      // All of it has come: nothing will end it.
      [sized(png.length), png],
      [head(type, `Content-Length: ${body.length}`), body],
    ];
    for (const pieces of requests) {
      const linesBefore = api.log.length;
      const counts = api.queue.counts.bind(api.queue);
      vi.spyOn(api.queue, 'counts').mockImplementationOnce(async () => {
        await leave();
        return counts();
      });
      const leave = leavingClient(api.port, pieces);
      const refused = () => api.log.slice(linesBefore).some(({ msg }) => msg === 'request refused');
      await expect.poll(refused).toBe(true);
      expect(await held()).toBe(0);
    }
  });
});

test('an upload that waits to be looked at goes when its client leaves', async () => {
  let release: () => void = () => undefined;
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  // As many as are decoded at once, and they take their time.
  const decode = vi.spyOn(sharp.prototype, 'toBuffer').mockImplementation(async () => {
    await released;
    return Buffer.alloc(0);
  });
  const first = [postPng(), postPng()];
  await expect.poll(() => decode.mock.calls.length).toBe(2);
  const leave = leavingClient(api.port, [sized(png.length), png]);
  await holds(3 * png.length);
  await leave();
  await holds(2 * png.length);
  const next = postPng();
  await holds(3 * png.length);
  release();
  expect((await Promise.all([...first, next])).map(({ status }) => status)).toEqual([
    202, 202, 202,
  ]);
  expect(decode).toHaveBeenCalledTimes(3);
  expect(await api.queue.counts()).toEqual({ queued: 3, processing: 0 });
});

test('what is passed on is held no longer, whoever waits for its job', async () => {
  const waitFor = vi.spyOn(api.queue, 'waitFor');
  const answer = post({
    body: new Uint8Array(png),
    headers: { 'content-type': 'image/png', prefer: 'wait=30' },
  });
  await vi.waitFor(() => expect(waitFor).toHaveBeenCalled(), { timeout: 10_000 });
  expect(await held()).toBe(0);
  const [id] = await api.redis.client.lrange('bull:upscale:wait', 0, -1);
  await send(`${api.url}/upscale/${id}`, { method: 'DELETE' });
  expect((await answer).status).toBe(200);
});

describe('an upload whose time is over', () => {
  const late = /^HTTP\/1.1 408 /;
  /** Resolves with the answer; what is written after it comes too late. */
  const answerOf = (socket: Socket): Promise<string> =>
    new Promise((resolve) => socket.once('data', (bytes) => resolve(String(bytes))));
  beforeEach(async () => {
    await api.stop();
    api = await startApi({ REQUEST_TIMEOUT_SECONDS: '1' });
  });

  test('holds nothing any more, though its client goes on', async () => {
    const socket = slow(500_000);
    expect(await answerOf(socket)).toMatch(late);
    const trickle = setInterval(() => socket.write('x'), 100);
    await holds(0);
    clearInterval(trickle);
  });

  test.each(['as it is', 'in a form'])('makes no job, sent %s', async (how) => {
    const { body, headers } = form([{ name: 'image', fileName: 'a.png', bytes: png }]);
    const type = `Content-Type: ${(headers as Record<string, string>)['content-type']}`;
    const [start, bytes] =
      how === 'as it is'
        ? [sized(png.length), png]
        : [head(type, `Content-Length: ${body.length}`), body];
    const socket = begin(start, bytes.subarray(0, -1));
    const closed = new Promise((resolve) => socket.once('close', resolve));
    expect(await answerOf(socket)).toMatch(late);
    socket.write(bytes.subarray(-1));
    await closed;
    await holds(0);
    expect(await api.queue.counts()).toEqual({ queued: 0, processing: 0 });
  });
});
