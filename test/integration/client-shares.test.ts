/** What one client may have of what all of them share: none of bad intent keeps the others out. */
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { digestOfKey } from '../../src/api/clients/api-keys.ts';
import { heatmapId, outputKey } from '../../src/jobs/job.ts';
import { metrics } from '../../src/metrics.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { expectContract } from '../support/contract.ts';
import { writeFinishedJob } from '../support/finished-job.ts';
import { photo } from '../support/hostile-images.ts';
import { type Answer, json, parseRaw, rawExchange, send } from '../support/http.ts';
import { startReceiver } from '../support/receiver.ts';
import { openStream } from '../support/sse.ts';
import { jobData } from '../support/worker.ts';

/** Far more than the buffers of a connection hold. */
const large = Buffer.alloc(48_000_000, 1);
let folder: string;
let api: TestApi;
let png: Buffer;
const sockets: Socket[] = [];

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-shares-'));
  const file = path.join(folder, 'keys.json');
  const keys = [{ name: 'greedy' }, { name: 'other' }, { name: 'single', concurrent_jobs: 1 }];
  const entries = keys.map((key) => ({ ...key, sha256: digestOfKey(key.name) }));
  await writeFile(file, JSON.stringify({ keys: entries }));
  api = await startApi({
    API_KEYS_FILE: file,
    MAX_UPLOAD_BYTES: '400000',
    UPLOADS_IN_FLIGHT_MEGABYTES: '1',
    IMAGE_URLS_IN_FLIGHT: '4',
    IMAGE_URL_ALLOWED_HOSTS: '127.0.0.1',
    STREAMS_PER_CLIENT: '2',
  });
  png = await photo('png', 24, 16);
});
afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await api.stop();
  await rm(folder, { recursive: true, force: true });
});

const bearer = (key: string) => ({ authorization: `Bearer ${key}` });
const connected = (): Socket => {
  const socket = connect(api.port, '127.0.0.1');
  sockets.push(socket);
  socket.on('error', () => {});
  return socket;
};
const uploadHead = (key: string, bytes: number, ...lines: string[]): string =>
  [
    'POST /upscale HTTP/1.1',
    'Host: x',
    `Authorization: Bearer ${key}`,
    'Content-Type: image/png',
    `Content-Length: ${bytes}`,
    ...lines,
    '\r\n',
  ].join('\r\n');
/** An upload of which all but the last byte has come. */
const slow = (key: string, bytes: number): Socket => {
  const socket = connected();
  socket.write(uploadHead(key, bytes + 1));
  socket.write(Buffer.alloc(bytes));
  return socket;
};
const holds = (bytes: number) =>
  expect.poll(async () => (await metrics.uploadBytes.get()).values[0]?.value).toBe(bytes);
const post = (key: string, body: Uint8Array | string = png, type = 'image/png') =>
  send(`${api.url}/upscale`, {
    method: 'POST',
    body: typeof body === 'string' ? body : new Uint8Array(body),
    headers: { 'content-type': type, ...bearer(key) },
  });
const expectRefused = (answer: Answer, operation: string, code = 'too_much_at_once'): void => {
  expectContract(answer, operation);
  expect(json(answer)).toMatchObject({ status: 429, code });
  expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
};

describe('uploads', () => {
  test('of one client hold half of what there is', async () => {
    const first = slow('greedy', 300_000);
    slow('greedy', 200_000);
    await holds(500_000);
    // Told before the upload is sent.
    const asked = [uploadHead('greedy', png.length, 'Expect: 100-continue')];
    expectRefused(parseRaw(await rawExchange(api.port, asked)), 'createUpscale');
    const { values } = await metrics.requestsRefused.get();
    expect(values).toContainEqual(
      expect.objectContaining({ labels: { code: 'too_much_at_once', client: 'greedy' } }),
    );
    expect((await post('other')).status).toBe(202);
    first.destroy();
    await holds(200_000);
    expect((await post('greedy')).status).toBe(202);
  });

  test('under way are no more than the jobs that a client may have', async () => {
    slow('single', 1000);
    await holds(1000);
    const asked = [uploadHead('single', png.length, 'Expect: 100-continue')];
    const refused = parseRaw(await rawExchange(api.port, asked));
    expectRefused(refused, 'createUpscale', 'too_many_jobs');
    expect((await post('other')).status).toBe(202);
    sockets[0]?.destroy();
    await holds(0);
    expect((await post('single')).status).toBe(202);
  });

  test('by URL of one client are half of those that are fetched', async () => {
    const host = await startReceiver(({ path: asked }, response) => {
      if (asked === '/image') response.end(png);
    });
    const fetched = (key: string, name: string) =>
      post(key, JSON.stringify({ image_url: `${host.url}/${name}` }), 'application/json');
    const stuck = [fetched('greedy', 'never'), fetched('greedy', 'never')];
    await expect.poll(() => host.received.length).toBe(2);
    expectRefused(await fetched('greedy', 'image'), 'createUpscale');
    expect((await fetched('other', 'image')).status).toBe(202);
    await host.stop();
    for (const answer of stuck) expect((await answer).status).toBe(424);
  });
});

describe('results on their way', () => {
  /** A client that has the head of the answer and takes no more for now. */
  const download = async (url: string, key: string): Promise<Socket> => {
    const socket = connected();
    socket.write(`GET ${url} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${key}\r\n\r\n`);
    await once(socket, 'readable');
    expect(String(socket.read(15))).toBe('HTTP/1.1 200 OK');
    return socket;
  };
  const finished = async (client: string): Promise<string> => {
    const input = { ...jobData('', png).input, bytes: large.length };
    const id = await writeFinishedJob(api, png, { input, client });
    await api.store.put(outputKey(id), large, 60);
    return id;
  };

  test('to one client are so many; one more has its turn when another has ended', async () => {
    const url = `/upscale/${await finished('greedy')}/result`;
    const [first] = [await download(url, 'greedy'), await download(url, 'greedy')];
    const more = () => send(api.url + url, { headers: bearer('greedy') });
    const refused = await more();
    expectRefused(refused, 'getUpscaleResult');
    // What the client has of it is not sent at all.
    const held = await send(api.url + url, {
      headers: { ...bearer('greedy'), 'if-none-match': '*' },
    });
    expect(held.status).toBe(304);
    await download(`/upscale/${await finished('other')}/result`, 'other');
    first?.destroy();
    await expect.poll(async () => (await more()).status).toBe(200);
  });

  test('are heat maps as well', async () => {
    const id = await finished('greedy');
    const url = `/upscale/${id}/result`;
    await download(url, 'greedy');
    await download(url, 'greedy');
    const heatmap = await finished('greedy');
    await api.redis.client.rename(`pisa:reused:${heatmap}`, `pisa:reused:${heatmapId(id)}`);
    const refused = await send(`${api.url}/upscale/${id}/heatmap`, { headers: bearer('greedy') });
    expectRefused(refused, 'getHeatmap');
  });
});

test('streams of events of one client are so many; one more has its turn when another has ended', async () => {
  const watch = async (key: string) => {
    const { id } = json<{ id: string }>(await post(key));
    return openStream(`${api.url}/upscale/${id}/events`, { headers: bearer(key) });
  };
  const streams = [await watch('greedy'), await watch('greedy')];
  const { id } = json<{ id: string }>(await post('greedy'));
  const more = () => fetch(`${api.url}/upscale/${id}/events`, { headers: bearer('greedy') });
  const answer = await send(`${api.url}/upscale/${id}/events`, { headers: bearer('greedy') });
  expectRefused(answer, 'getUpscaleEvents');
  streams.push(await watch('other'));
  expect(streams.map(({ status }) => status)).toEqual([200, 200, 200]);
  streams[0]?.leave();
  await expect
    .poll(
      async () => {
        const { status, body } = await more();
        await body?.cancel();
        return status;
      },
      { timeout: 10_000 },
    )
    .toBe(200);
  for (const stream of streams) stream.leave();
});
