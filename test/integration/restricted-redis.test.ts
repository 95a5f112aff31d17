/** A Redis that answers and does not let us do everything: its user may little, or it takes no writes. */
import { randomBytes } from 'node:crypto';
import path from 'node:path';
import pino from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import { startServer } from '../../src/api/server.ts';
import { UpscaleQueue } from '../../src/jobs/queue.ts';
import { explainForbidden } from '../../src/jobs/redis-faults.ts';
import { openStore } from '../../src/storage/open-store.ts';
import { Deliverer } from '../../src/webhooks/deliverer.ts';
import { type Build, buildService } from '../support/build.ts';
import { writeFinishedJob } from '../support/finished-job.ts';
import { photo } from '../support/hostile-images.ts';
import { json, send } from '../support/http.ts';
import { answers, startReceiver } from '../support/receiver.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { openStream } from '../support/sse.ts';
import { startWorkerBench, type WorkerBench, workerConfig } from '../support/worker.ts';

/** As docs/operations.md has them. */
const needed = ['~bull:*', '~pisa:*', '&pisa:*', '+@all', '-@dangerous'];
const closers: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  vi.restoreAllMocks();
  for (const close of closers.splice(0).reverse()) await close();
});

/** The user of every connection, of those that there are as well. */
const restrict = (redis: TestRedis, rules: readonly string[]) =>
  redis.client.acl('SETUSER', 'default', 'reset', 'on', 'nopass', ...rules);

function newQueue(redis: TestRedis): UpscaleQueue {
  const folder = path.join(redis.folder, 'objects');
  const store = openStore({ kind: 'folder', folder }, { role: 'producer', sweep: false });
  const queue = new UpscaleQueue({ redisUrl: redis.url, store, resultTtlSeconds: 3600 });
  closers.push(
    () => store.close(),
    () => queue.close(),
  );
  return queue;
}

describe('a user without dangerous commands', () => {
  let build: Build;
  let bench: WorkerBench;
  beforeAll(async () => {
    build = await buildService();
    bench = await startWorkerBench(build);
    await restrict(bench.redis, needed);
  });
  afterAll(async () => {
    await bench.stop();
    await build.remove();
  });

  test('runs the whole service, and nothing is said of it', async () => {
    const said = [vi.spyOn(console, 'warn'), vi.spyOn(console, 'error')];
    const config = workerConfig({
      PORT: '0',
      RESULT_CACHE: 'on',
      WEBHOOK_SECRET: `whsec_${randomBytes(32).toString('base64')}`,
      WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
    });
    const logger = pino({ level: 'silent' });
    const redisUrl = bench.redis.url;
    await (await bench.startWorker({ RESULT_CACHE: 'on' })).ready;
    const queue = newQueue(bench.redis);
    await queue.ready(10_000);
    const deliverer = new Deliverer({ config, redisUrl, queue, logger });
    await deliverer.ready;
    const server = await startServer({ config, queue, store: bench.store, logger });
    const receiver = await startReceiver(answers(204));
    closers.push(
      () => receiver.stop(),
      () => deliverer.close(),
      () => server.close(),
    );
    const png = await photo('png', 24, 16);
    const hook = `webhook=${encodeURIComponent(receiver.url)}`;
    const post = (query: string, headers = {}) =>
      send(`${server.url}/upscale?${query}`, {
        method: 'POST',
        body: new Uint8Array(png),
        headers: { 'content-type': 'image/png', ...headers },
      });
    const done = async (job: JobObject): Promise<void> => {
      const stream = await openStream(`${server.url}${job.urls.events}`);
      await stream.ended;
      expect(stream.events.at(-1)?.data).toMatchObject({ status: 'succeeded' });
    };
    expect((await send(`${server.url}/readyz`)).status).toBe(200);
    const job = json<JobObject>(await post(hook, { 'idempotency-key': 'a' }));
    await done(job);
    const adjust = `${server.url}/upscale/${job.id}/adjust?sem=0.5`;
    await done(json<JobObject>(await send(adjust, { method: 'POST' })));
    await expect.poll(async () => (await post('ttl=99')).headers.get('x-cache')).toBe('hit');
    await expect.poll(() => receiver.received.length).toBe(1);
    expect((await send(`${server.url}${job.urls.cancel}`, { method: 'DELETE' })).status).toBe(204);
    expect((await send(`${server.url}/metrics`)).body.toString()).toContain('pisa_redis_up 1');
    for (const spy of said) expect(spy).not.toHaveBeenCalled();
  });
});

describe('a user that may too little', () => {
  let redis: TestRedis;
  let build: Build;
  beforeAll(async () => {
    build = await buildService();
  });
  afterAll(() => build.remove());
  beforeEach(async () => {
    redis = await startRedis();
    closers.push(() => redis.stop());
  });

  test.each([
    ['no keys of ours', ['~bull:*', '&pisa:*', '+@all', '-@dangerous'], /keys/],
    ['no keys of the queue', ['~pisa:*', '&pisa:*', '+@all', '-@dangerous'], /keys/],
    ['no channel', ['~bull:*', '~pisa:*', '+@all', '-@dangerous'], /channel/],
    ['no scripts', [...needed, '-eval'], /eval/],
  ])('ends the start of the api, with what it needs: %s', async (_what, rules, what) => {
    await restrict(redis, rules);
    const started = newQueue(redis).ready(10_000);
    await expect(started).rejects.toMatchObject({
      code: 'invalid_config',
      message: expect.stringMatching(what),
    });
    await expect(started).rejects.toThrow(needed.join(' '));
  });

  test('ends the start of a worker', async () => {
    const bench = await startWorkerBench(build);
    await restrict(bench.redis, ['~bull:*', '~pisa:*', '+@all', '-@dangerous']);
    const worker = await bench.startWorker();
    await expect(worker.ready).rejects.toMatchObject({
      code: 'invalid_config',
      message: expect.stringMatching(/channel.*&pisa:\*/s),
    });
    await bench.stop();
  });

  test('is told of by requests once it may no more', async () => {
    const queue = newQueue(redis);
    await queue.ready(10_000);
    await restrict(redis, [...needed, '-get']);
    await expect(queue.get('a')).rejects.toMatchObject({
      code: 'redis_unavailable',
      message: expect.stringMatching(/^Redis forbids what this takes: .*'get'/),
    });
    const error = await redis.client.get('a').catch((fault: unknown) => fault);
    expect(explainForbidden(error)).toMatchObject({ code: 'invalid_config' });
    expect(explainForbidden('anything else')).toBe('anything else');
  });
});

async function startApiOf(redis: TestRedis, queue: UpscaleQueue) {
  const store = openStore({ kind: 'folder', folder: redis.folder }, { role: 'producer' });
  const server = await startServer({
    config: workerConfig({ PORT: '0' }),
    queue,
    store,
    logger: pino({ level: 'silent' }),
  });
  closers.push(
    () => store.close(),
    () => server.close(),
  );
  return { server, store };
}

test('an api that has never been able to accept a job is not ready, and says why', async () => {
  const redis = await startRedis();
  closers.push(() => redis.stop());
  await redis.client.replicaof('127.0.0.1', 1);
  const queue = newQueue(redis);
  // Its start goes on: there may be a primary in a moment.
  await queue.ready(10_000);
  const { server } = await startApiOf(redis, queue);
  const ready = (excluded: string) => send(`${server.url}/readyz?exclude=${excluded}`);
  // A connection that is told `READONLY` is made anew, and another answer comes while it is.
  await expect
    .poll(async () => json<{ detail: string }>(await ready('devices')).detail)
    .toMatch(/^Redis refuses writes: .*replica/);
  expect((await ready('devices')).status).toBe(503);
  expect((await ready('devices,redis')).status).toBe(200);
  await redis.client.replicaof('NO', 'ONE');
  await expect.poll(async () => (await ready('devices')).status).toBe(200);
  // For all instances alike: none is better.
  await redis.client.replicaof('127.0.0.1', 1);
  expect((await ready('devices')).status).toBe(200);
});

test('an api that starts while Redis is full is ready, and deletes what takes the room', async () => {
  const redis = await startRedis();
  closers.push(() => redis.stop());
  await redis.client.config('SET', 'maxmemory', '1');
  const queue = newQueue(redis);
  await queue.ready(10_000);
  const { server, store } = await startApiOf(redis, queue);
  expect((await send(`${server.url}/readyz?exclude=devices`)).status).toBe(200);
  // What an instance before it has made.
  await redis.client.config('SET', 'maxmemory', '0');
  const id = await writeFinishedJob({ redis, store }, await photo('png', 24, 16));
  await redis.client.config('SET', 'maxmemory', '1');
  expect((await send(`${server.url}/upscale/${id}`, { method: 'DELETE' })).status).toBe(204);
});
