/** The life of a job as a client sees it: real HTTP, real Redis, a real worker with the identity bundle. */
import pino from 'pino';
import sharp from 'sharp';
import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import { type ApiServer, startServer } from '../../src/api/server.ts';
import type { Problem } from '../../src/errors.ts';
import { outputKey } from '../../src/jobs/job.ts';
import { type Build, buildService } from '../support/build.ts';
import { expectContract } from '../support/contract.ts';
import { photo } from '../support/hostile-images.ts';
import { type Answer, form, json, send } from '../support/http.ts';
import { startWorkerBench, type WorkerBench, workerConfig } from '../support/worker.ts';

const maxWaitSeconds = 30;
const uuid = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
let build: Build;
let bench: WorkerBench;
let server: ApiServer;
let png: Buffer;

beforeAll(async () => {
  build = await buildService();
  bench = await startWorkerBench(build);
  const worker = await bench.startWorker();
  await worker.ready;
  server = await startServer({
    config: workerConfig({ PORT: '0', MAX_WAIT_SECONDS: String(maxWaitSeconds) }),
    queue: bench.queue,
    store: bench.store,
    logger: pino({ level: 'silent' }),
  });
  png = await photo('png', 30, 21);
});
afterAll(async () => {
  await server.close();
  await bench.stop();
  await build.remove();
});
afterEach(() => vi.restoreAllMocks());

const post = async (
  headers: Record<string, string> = {},
  query = '',
  image: Uint8Array = png,
): Promise<Answer> => {
  const answer = await send(`${server.url}/upscale${query}`, {
    method: 'POST',
    body: image,
    headers: { 'content-type': 'image/png', ...headers },
  });
  expectContract(answer, 'createUpscale');
  return answer;
};
const get = async (path: string, headers: Record<string, string> = {}): Promise<Answer> => {
  const answer = await send(`${server.url}${path}`, { headers });
  expectContract(answer, path.endsWith('/result') ? 'getUpscaleResult' : 'getUpscale');
  return answer;
};
const wait = { prefer: `wait=${maxWaitSeconds}` };

describe('POST /upscale', () => {
  test('answers 202, Location and a job that goes on to succeed', async () => {
    const answer = await post({}, '?pix=0.5&sem=1.5&scale=2&format=webp&quality=80');
    expect(answer.status).toBe(202);
    const job = json<JobObject>(answer);
    expect(job.id).toMatch(uuid);
    expect(answer.headers.get('location')).toBe(`/upscale/${job.id}`);
    expect(answer.headers.get('x-job-id')).toBe(job.id);
    expect(answer.headers.get('preference-applied')).toBeNull();
    expect(job).toMatchObject({
      status: 'queued',
      started_at: null,
      completed_at: null,
      params: { pix: 0.5, sem: 1.5, scale: 2, format: 'webp', quality: 80, model: 'identity' },
      input: { width: 30, height: 21, bytes: png.length, content_type: 'image/png' },
      output: null,
      timings_ms: null,
      error: null,
      urls: { self: `/upscale/${job.id}`, result: `/upscale/${job.id}/result` },
    });

    await bench.ended(job.id);
    const ended = json<JobObject>(await get(job.urls.self));
    expect(ended).toMatchObject({
      status: 'succeeded',
      output: { width: 60, height: 42, content_type: 'image/webp', url: job.urls.result },
      error: null,
      queue_position: null,
    });
    expect(ended.params.colorfix).not.toBeNull();
    expect(Date.parse(ended.started_at ?? '')).toBeGreaterThanOrEqual(Date.parse(ended.created_at));
    expect(Date.parse(ended.completed_at ?? '')).toBeGreaterThanOrEqual(
      Date.parse(ended.started_at ?? ''),
    );
  });

  test('takes the image as a form too, with the same result', async () => {
    const raw = await post({ accept: 'image/*' });
    const answer = await send(`${server.url}/upscale`, {
      ...form([{ name: 'image', fileName: 'a.png', type: 'image/png', bytes: png }]),
      headers: { ...form([]).headers, accept: 'image/png' },
    });
    expectContract(answer, 'createUpscale');
    expect(answer.status).toBe(200);
    expect(answer.body.equals(raw.body)).toBe(true);
  });

  test('takes a form as browsers and fetch write it', async () => {
    const body = new FormData();
    body.set('image', new Blob([new Uint8Array(png)]), 'Foto "1".png');
    const answer = await send(`${server.url}/upscale`, { method: 'POST', body, headers: wait });
    expectContract(answer, 'createUpscale');
    expect(json<JobObject>(answer).status).toBe('succeeded');
  });
});

describe('Prefer: wait', () => {
  test('answers 200 with the job when it has ended, and says what was applied', async () => {
    const answer = await post({ prefer: 'wait=20' });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('preference-applied')).toBe('wait=20');
    expect(json<JobObject>(answer).status).toBe('succeeded');
  });

  test('is capped', async () => {
    const answer = await post({ prefer: 'respond-async, wait=86400' });
    expect(answer.headers.get('preference-applied')).toBe(`respond-async, wait=${maxWaitSeconds}`);
    expect(answer.status).toBe(200);
  });

  test('wait=0 and respond-async answer at once', async () => {
    for (const prefer of ['wait=0', 'respond-async']) {
      const answer = await post({ prefer, accept: 'image/png' });
      expect(answer.status).toBe(202);
      expect(answer.headers.get('preference-applied')).toBe(prefer);
      await bench.ended(json<JobObject>(answer).id);
    }
  });
});

test.each([
  'application/json',
  'application/json; charset=utf-8',
  'application/json;charset="UTF-8", image/png;q=0.5',
  'application/*',
  '*/*',
  'image/*;q=0.5, application/json',
])('Accept: %s answers the job', async (accept) => {
  const answer = await post({ accept });
  expect(answer.headers.get('content-type')).toBe('application/json; charset=utf-8');
  await bench.ended(json<JobObject>(answer).id);
});

describe('Accept: image', () => {
  test.each([
    ['image/*', '', 'png'],
    ['image/*', '?format=jpeg', 'jpeg'],
    ['image/webp', '', 'webp'],
    ['image/avif, image/webp;q=0.9, */*;q=0.1', '', 'avif'],
    ['image/jpeg', '?format=jpeg', 'jpeg'],
  ])('%s%s answers the image as %s', async (accept, query, format) => {
    const answer = await post({ accept }, query);
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-type')).toBe(`image/${format}`);
    const { width, height } = await sharp(answer.body).metadata();
    expect({ width, height }).toEqual({ width: 120, height: 84 });
    const id = answer.headers.get('x-job-id') ?? '';
    expect(id).toMatch(uuid);
    expect(answer.headers.get('content-disposition')).toBe(`inline; filename="${id}.${format}"`);
    expect(answer.headers.get('server-timing')).toMatch(
      /^queue;dur=[\d.]+, decode_image;dur=.*, total;dur=[\d.]+$/,
    );
    expect(answer.headers.get('x-content-type-options')).toBe('nosniff');
    expect((await get(`/upscale/${id}/result`)).body.equals(answer.body)).toBe(true);
  });

  test('a job that fails answers its problem, with its status', async () => {
    // The api takes what a worker had once; none has had this one lately.
    const known = JSON.stringify({ name: 'ghost', seenAt: Date.now() - 86_400_000 });
    await bench.redis.client.hset('pisa:models', 'ghost', known);
    const answer = await post({ accept: 'image/png' }, '?model=ghost');
    await bench.redis.client.hdel('pisa:models', 'ghost');
    expect(answer.status).toBe(422);
    expect(json<Problem>(answer).code).toBe('unknown_model');
    const id = answer.headers.get('x-job-id');
    const job = json<JobObject>(await get(`/upscale/${id}`));
    expect(job.status).toBe('failed');
    expect(job.error).toEqual(json(answer));
    const result = await get(`/upscale/${id}/result`);
    expect(json<Problem>(result)).toMatchObject({ status: 409, code: 'job_has_no_result' });
  });
});

describe('GET /upscale/{id}/result', () => {
  test('is cached by its ETag', async () => {
    const { id, output } = json<JobObject>(await post(wait));
    const url = `/upscale/${id}/result`;
    const first = await get(url);
    const etag = first.headers.get('etag') ?? '';
    expect(etag).toMatch(/^"[^"]+"$/);
    expect(first.headers.get('cache-control')).toMatch(/^private, max-age=\d+, immutable$/);
    expect(first.body.length).toBe(output?.bytes);
    for (const known of [etag, `"other", W/${etag}`, '*']) {
      const again = await get(url, { 'if-none-match': known });
      expect(again.status).toBe(304);
      expect(again.headers.get('etag')).toBe(etag);
      expect(again.body.length).toBe(0);
    }
    expect((await get(url, { 'if-none-match': '"other"' })).status).toBe(200);
  });

  test('HEAD tells the size and sends nothing', async () => {
    const { id, output } = json<JobObject>(await post(wait));
    const answer = await send(`${server.url}/upscale/${id}/result`, { method: 'HEAD' });
    expect(answer.status).toBe(200);
    expect(answer.headers.get('content-length')).toBe(String(output?.bytes));
    expect(answer.headers.get('content-type')).toBe('image/png');
    expect(answer.body.length).toBe(0);
  });

  test('410 once it has expired', async () => {
    const { id } = json<JobObject>(await post(wait));
    await bench.store.delete(outputKey(id));
    const answer = await get(`/upscale/${id}/result`);
    expect(json<Problem>(answer)).toMatchObject({ status: 410, code: 'result_expired' });
  });
});

describe('DELETE /upscale/{id}', () => {
  test('deletes a job that has ended, with its images', async () => {
    const { id } = json<JobObject>(await post(wait));
    const deleted = await send(`${server.url}/upscale/${id}`, { method: 'DELETE' });
    expectContract(deleted, 'deleteUpscale');
    expect(deleted.status).toBe(204);
    expect(await bench.store.get(outputKey(id))).toBeUndefined();
    expect((await get(`/upscale/${id}`)).status).toBe(404);
    expect((await get(`/upscale/${id}/result`)).status).toBe(404);
  });
});

test('a job that runs is canceled at once, and who waits for it hears so', async () => {
  const submit = vi.spyOn(bench.queue, 'submit');
  const answer = post({ accept: 'image/png' }, '', await photo('png', 400, 400));
  const job = await vi.waitFor(
    async () => {
      const id = submit.mock.calls[0]?.[0] ?? 'none yet';
      const found = json<JobObject>(await send(`${server.url}/upscale/${id}`));
      expect(found.status).toBe('processing');
      return found;
    },
    { timeout: 20_000, interval: 20 },
  );
  const canceled = await send(`${server.url}${job.urls.cancel}`, { method: 'DELETE' });
  expectContract(canceled, 'deleteUpscale');
  expect(json<JobObject>(canceled)).toMatchObject({ id: job.id, status: 'canceled' });
  expect(json<Problem>(await answer)).toMatchObject({ status: 409, code: 'canceled' });
  expect((await post({ accept: 'image/png' })).status).toBe(200);
});

test('a client that goes away while it waits leaves its job running and nothing behind', async () => {
  const submit = vi.spyOn(bench.queue, 'submit');
  const waitFor = vi.spyOn(bench.queue, 'waitFor');
  const leaving = new AbortController();
  const large = await photo('png', 300, 200);
  const request = fetch(`${server.url}/upscale`, {
    method: 'POST',
    body: new Uint8Array(large),
    headers: { 'content-type': 'image/png', accept: 'image/png' },
    signal: leaving.signal,
  });
  await vi.waitFor(() => expect(waitFor).toHaveBeenCalled(), { timeout: 10_000 });
  leaving.abort();
  await expect(request).rejects.toThrow();
  // The wait itself ended before the job did.
  const seen = await waitFor.mock.results[0]?.value;
  expect(['queued', 'processing']).toContain(seen?.status);
  const id = submit.mock.calls[0]?.[0] ?? '';
  expect((await bench.ended(id)).status).toBe('succeeded');
});

describe('the service itself', () => {
  test('/models names what the worker has', async () => {
    const answer = await send(`${server.url}/models`);
    expectContract(answer, 'listModels');
    const { models } = json<{ models: { name: string; default: boolean; available: boolean }[] }>(
      answer,
    );
    expect(models).toContainEqual(
      expect.objectContaining({ name: 'identity', default: true, available: true }),
    );
  });

  test('/readyz counts devices', async () => {
    const answer = await send(`${server.url}/readyz`);
    expectContract(answer, 'getReadiness');
    expect(json(answer)).toEqual({ status: 'ready', devices: { ready: 1 } });
  });

  test('/metrics knows routes by their pattern, and the depth of the queue', async () => {
    const { id } = json<JobObject>(await post(wait));
    await get(`/upscale/${id}`);
    const answer = await send(`${server.url}/metrics`);
    expectContract(answer, 'getMetrics');
    const text = answer.body.toString();
    expect(text).toMatch(
      /pisa_http_request_duration_seconds_count\{method="GET",route="\/upscale\/:id",status="200"\} \d+/,
    );
    expect(text).toMatch(/pisa_queue_jobs\{state="queued"\} 0\n/);
    expect(text).not.toContain(id);
  });

  test('the request id of the client is the one of the logs', async () => {
    const mine = await send(`${server.url}/models`, { headers: { 'x-request-id': 'trace-1' } });
    expect(mine.headers.get('x-request-id')).toBe('trace-1');
    const hostile = await send(`${server.url}/models`, { headers: { 'x-request-id': 'a b"c' } });
    expect(hostile.headers.get('x-request-id')).toMatch(uuid);
  });
});
