/** ttl, timeout and priority of a request, with a real worker. */
import pino from 'pino';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import { type ApiServer, startServer } from '../../src/api/server.ts';
import type { Problem } from '../../src/errors.ts';
import { inputKey, outputKey } from '../../src/jobs/job.ts';
import { type Build, buildService } from '../support/build.ts';
import { expectContract } from '../support/contract.ts';
import { photo } from '../support/hostile-images.ts';
import { type Answer, json, send } from '../support/http.ts';
import { startWorkerBench, type WorkerBench, workerConfig } from '../support/worker.ts';

let build: Build;
let bench: WorkerBench;
let server: ApiServer;
let png: Buffer;

beforeAll(async () => {
  build = await buildService();
  bench = await startWorkerBench(build);
  server = await startServer({
    config: workerConfig({
      PORT: '0',
      RESULT_TTL_SECONDS: '100',
      MAX_RESULT_TTL_SECONDS: '200',
      JOB_TIMEOUT_SECONDS: '60',
    }),
    queue: bench.queue,
    store: bench.store,
    logger: pino({ level: 'silent' }),
  });
  png = await photo('png', 24, 16);
});
afterAll(async () => {
  await server.close();
  await bench.stop();
  await build.remove();
});

const post = async (query = '', image = png, prefer = 'respond-async'): Promise<Answer> => {
  const answer = await send(`${server.url}/upscale${query}`, {
    method: 'POST',
    body: new Uint8Array(image),
    headers: { 'content-type': 'image/png', prefer },
  });
  expectContract(answer, 'createUpscale');
  return answer;
};
const get = async (path: string): Promise<Answer> => send(`${server.url}${path}`);

describe('before any worker runs', () => {
  // What one test left waiting is not for the next to count.
  afterEach(() => bench.inspector.drain());

  test('what is asked is in the job; what is not asked has its default', async () => {
    const asked = json<JobObject>(await post('?ttl=200&timeout=9&priority=batch'));
    expect(asked).toMatchObject({ ttl_seconds: 200, timeout_seconds: 9, priority: 'batch' });
    const plain = json<JobObject>(await post());
    expect(plain).toMatchObject({ ttl_seconds: 100, timeout_seconds: 60, priority: 'interactive' });
  });

  test.each([
    ['ttl=201', 'ttl', 'at most 200 seconds'],
    ['ttl=0', 'ttl', 'a whole number from 1'],
    ['ttl=1.5', 'ttl', 'a whole number from 1'],
    ['timeout=61', 'timeout', 'at most 60 seconds'],
    ['priority=urgent', 'priority', 'one of interactive, batch'],
  ])('%s is refused, and says what is taken', async (query, name, text) => {
    const answer = await post(`?${query}`);
    expect(answer.status).toBe(422);
    const problem = json<Problem>(answer);
    expect(problem.errors?.[0]?.pointer).toBe(`#/query/${name}`);
    expect(problem.detail).toContain(text);
  });

  test('a batch job that waits can be canceled', async () => {
    const answer = json<JobObject>(await post('?priority=batch'));
    const removed = await send(`${server.url}${answer.urls.cancel}`, { method: 'DELETE' });
    expect(json<JobObject>(removed).status).toBe('canceled');
    await expect.poll(() => bench.store.get(inputKey(answer.id))).toBeUndefined();
  });

  test('batch jobs wait behind interactive ones, and say so', async () => {
    const sent: JobObject[] = [];
    for (const query of ['?priority=batch', '', '?priority=batch', '']) {
      sent.push(json<JobObject>(await post(query)));
    }
    const positions = sent.map(
      async ({ urls }) => json<JobObject>(await get(urls.self)).queue_position,
    );
    expect(await Promise.all(positions)).toEqual([2, 0, 3, 1]);
    expect(await bench.queue.counts()).toEqual({ queued: 4, processing: 0 });

    const order: string[] = [];
    bench.events.on('active', ({ jobId }) => order.push(jobId));
    const worker = await bench.startWorker({ JOBS_PER_DEVICE: '1' });
    await worker.ready;
    const ids = sent.map(({ id }) => id);
    await expect
      .poll(() => order.map((id) => ids.indexOf(id)), { timeout: 60_000 })
      .toEqual([1, 3, 0, 2]);
    await Promise.all(ids.map((id) => bench.ended(id)));
    await worker.close();
  });
});

describe('with a worker', () => {
  beforeAll(async () => {
    await (await bench.startWorker({ JOBS_PER_DEVICE: '1' })).ready;
  });

  test('a result lives as long as was asked: then 410, then its bytes are gone', async () => {
    const job = json<JobObject>(await post('?ttl=2', png, 'wait=30'));
    expect(job.status).toBe('succeeded');
    // From when it was made, which was while it ran.
    const madeAt = Date.parse(job.output?.expires_at ?? '') - 2000;
    expect(madeAt).toBeGreaterThanOrEqual(Date.parse(job.started_at ?? ''));
    expect(madeAt).toBeLessThanOrEqual(Date.parse(job.completed_at ?? ''));
    await expect.poll(async () => (await get(job.urls.result)).status).toBe(410);
    const answer = await get(job.urls.result);
    expectContract(answer, 'getUpscaleResult');
    expect(json<Problem>(answer).code).toBe('result_expired');
    expect(await bench.store.get(outputKey(job.id))).toBeUndefined();
    // The job itself is still known.
    expect(json<JobObject>(await get(job.urls.self)).status).toBe('succeeded');
  });

  test('a job that takes longer than was asked fails with job_timeout', async () => {
    const answer = await post('?timeout=1', await photo('png', 1200, 1200), 'wait=60');
    expect(json<JobObject>(answer)).toMatchObject({
      status: 'failed',
      error: { code: 'job_timeout' },
    });
  });
});
