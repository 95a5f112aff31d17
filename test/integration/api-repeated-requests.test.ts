/** Requests that come twice: retries with an Idempotency-Key, and equal requests answered from the stored result. */
import { randomBytes } from 'node:crypto';
import pino from 'pino';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import type { JobObject } from '../../src/api/job-object.ts';
import { type ApiServer, startServer } from '../../src/api/server.ts';
import { AppError, type Problem } from '../../src/errors.ts';
import { inputKey, outputKey } from '../../src/jobs/job.ts';
import { admitReuse, forgetReuse } from '../../src/jobs/reused-bytes.ts';
import { metrics } from '../../src/metrics.ts';
import { FolderStore } from '../../src/storage/folder-store.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { type Build, buildService } from '../support/build.ts';
import { expectContract } from '../support/contract.ts';
import { failJobs } from '../support/fail-jobs.ts';
import { writeFinishedJob } from '../support/finished-job.ts';
import { photo } from '../support/hostile-images.ts';
import { type Answer, form, json, send } from '../support/http.ts';
import { openStream } from '../support/sse.ts';
import { startWorkerBench, type WorkerBench, workerConfig } from '../support/worker.ts';

const webhookSecret = `whsec_${randomBytes(32).toString('base64')}`;
let png: Buffer;
let other: Buffer;
beforeAll(async () => {
  png = await photo('png', 24, 16);
  other = await photo('png', 25, 16);
});

const postTo = async (
  url: string,
  query = '',
  headers: Record<string, string> = {},
  image = png,
): Promise<Answer> => {
  const answer = await send(`${url}/upscale${query}`, {
    method: 'POST',
    body: new Uint8Array(image),
    headers: { 'content-type': 'image/png', ...headers },
  });
  expectContract(answer, 'createUpscale');
  return answer;
};

describe('Idempotency-Key', () => {
  let api: TestApi;
  beforeEach(async () => {
    api = await startApi({
      MAX_QUEUE_LENGTH: '3',
      WEBHOOK_SECRET: webhookSecret,
      WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
    });
  });
  afterEach(async () => {
    vi.restoreAllMocks();
    await api.stop();
  });
  const post = (key: string, query = '', image = png) =>
    postTo(api.url, query, { 'idempotency-key': key }, image);
  const idOf = (answer: Answer) => json<JobObject>(answer).id;

  test('the same key and request give the same job, and say so', async () => {
    const first = await post('a', '?pix=0.5&sem=1');
    expect(first.headers.get('idempotency-replayed')).toBeNull();
    const again = await post('a', '?sem=1&pix=0.50');
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(again.status).toBe(202);
    expect(idOf(again)).toBe(idOf(first));
    const asForm = await send(`${api.url}/upscale?pix=0.5`, {
      ...form([{ name: 'image', fileName: 'x.png', type: 'image/png', bytes: png }]),
      headers: { ...form([]).headers, 'idempotency-key': 'a' },
    });
    expect(idOf(asForm)).toBe(idOf(first));
    expect(await api.queue.counts()).toEqual({ queued: 1, processing: 0 });
    expect(idOf(await post('b', '?pix=0.5&sem=1'))).not.toBe(idOf(first));
  });

  test.each([
    ['another image', '', () => other],
    ['another parameter', '?sem=0.3', () => png],
    ['another time to live', '?ttl=77', () => png],
  ])('the same key with %s is refused', async (_what, query, image) => {
    await post('a');
    const answer = await post('a', query, image());
    expect(answer.status).toBe(422);
    expect(json<Problem>(answer)).toMatchObject({
      code: 'idempotency_key_reused',
      errors: [{ pointer: '#/headers/idempotency-key' }],
    });
    expect(await api.queue.counts()).toEqual({ queued: 1, processing: 0 });
  });

  test('a storm of retries makes one job', async () => {
    const answers = await Promise.all(Array.from({ length: 20 }, () => post('storm')));
    expect(new Set(answers.map(idOf)).size).toBe(1);
    expect(await api.queue.counts()).toEqual({ queued: 1, processing: 0 });
    expect(await api.store.get(inputKey(idOf(answers[0] as Answer)))).toEqual(png);
  });

  test('a request that died between its key and its job is made up for by the retry', async () => {
    vi.spyOn(api.queue, 'submit').mockRejectedValueOnce(new AppError('redis_unavailable', 'Gone.'));
    expect((await post('a')).status).toBe(503);
    expect(await api.queue.counts()).toEqual({ queued: 0, processing: 0 });
    const retry = await post('a');
    expect(retry.status).toBe(202);
    expect(idOf(await post('a'))).toBe(idOf(retry));
    expect(await api.queue.counts()).toEqual({ queued: 1, processing: 0 });
  });

  test('a full queue refuses no retry of what it has taken', async () => {
    const first = await post('a');
    await post('b');
    await post('c');
    expect((await post('d')).status).toBe(429);
    expect(idOf(await post('a'))).toBe(idOf(first));
  });

  /** For what may have passed; those at `sem=0.5` for good. */
  const failAll = (...jobs: Answer[]): Promise<void> =>
    failJobs(api, jobs.map(idOf), ({ params }) =>
      params.sem === 0.5 ? 'unknown_model' : 'disk_full',
    );

  test('a job that failed for what may have passed gives way to one new one, however many retry', async () => {
    const query = `?webhook=${encodeURIComponent('http://127.0.0.1:9/')}`;
    const first = await post('a', query);
    await failAll(first);
    const answers = await Promise.all(Array.from({ length: 20 }, () => post('a', query)));
    const ids = new Set(answers.map(idOf));
    expect([ids.size, ids.has(idOf(first))]).toEqual([1, false]);
    expect(await api.queue.counts()).toEqual({ queued: 1, processing: 0 });
    expect(idOf(await post('a', query))).toBe([...ids][0]);
    // Each is told of by itself.
    expect(await api.queue.get(idOf(first))).toMatchObject({
      status: 'failed',
      error: { code: 'disk_full' },
      webhook: { status: 'pending' },
    });
    expect(await api.queue.get([...ids][0] ?? '')).toMatchObject({
      status: 'queued',
      webhook: { status: 'pending' },
    });
    const reused = await post('a', query, other);
    expect(json<Problem>(reused).code).toBe('idempotency_key_reused');
  });

  test('a job made from a source that has gone since cannot be made anew: it stays the answer', async () => {
    const source = await writeFinishedJob(api, png, { client: 'anyone' });
    const adjust = async (query = '', init: RequestInit = {}): Promise<Answer> => {
      const answer = await send(`${api.url}/upscale/${source}/adjust${query}`, {
        method: 'POST',
        ...init,
        headers: { ...(init.headers as Record<string, string>), 'idempotency-key': 'a' },
      });
      expectContract(answer, 'adjustUpscale');
      return answer;
    };
    const first = await adjust();
    await failAll(first);
    const second = await adjust();
    expect(idOf(second)).not.toBe(idOf(first));
    await failAll(second);
    await api.store.delete(inputKey(source));
    const whileKnown = await adjust();
    await send(`${api.url}/upscale/${source}`, { method: 'DELETE' });
    for (const answer of [whileKnown, await adjust()]) {
      expect(answer.headers.get('idempotency-replayed')).toBe('true');
      expect(json<JobObject>(answer)).toMatchObject({ id: idOf(second), status: 'failed' });
    }
    const map = { name: 'pix_map', fileName: 'x.png', type: 'image/png', bytes: png };
    expect(json<Problem>(await adjust('', form([map]))).code).toBe('idempotency_key_reused');
    expect((await adjust('?pix=0.1')).status).toBe(404);
  });

  test('a job that failed for good stays the answer', async () => {
    const first = await post('a', '?sem=0.5');
    await failAll(first);
    const again = await post('a', '?sem=0.5');
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(json<JobObject>(again)).toMatchObject({ id: idOf(first), status: 'failed' });
  });

  test('a new job in place of one that failed needs room as any other', async () => {
    const first = await post('a');
    await failAll(first);
    for (const key of ['b', 'c', 'd']) await post(key);
    expect((await post('a')).status).toBe(429);
  });

  test('a canceled job stays the answer, a refused request binds nothing', async () => {
    const first = await post('a');
    await send(`${api.url}/upscale/${idOf(first)}`, { method: 'DELETE' });
    const again = await post('a');
    expect(again.status).toBe(200);
    expect(json<JobObject>(again)).toMatchObject({ id: idOf(first), status: 'canceled' });
    expect((await post('b', '', Buffer.from('no image'))).status).toBe(415);
    expect((await post('b')).status).toBe(202);
  });

  test('keys are kept for IDEMPOTENCY_KEY_SECONDS, hashed', async () => {
    await post('my-secret-key');
    const [name = ''] = await api.redis.client.keys('pisa:idempotency:*');
    expect(name).not.toContain('my-secret-key');
    const seconds = await api.redis.client.ttl(name);
    expect(seconds).toBeGreaterThan(86_000);
    expect(seconds).toBeLessThanOrEqual(86_400);
  });

  test.each(['', 'a b', 'x'.repeat(256)])('%j is no key', async (key) => {
    const answer = await post(key);
    expect(json<Problem>(answer)).toMatchObject({
      status: 422,
      errors: [{ pointer: '#/headers/idempotency-key' }],
    });
  });
});

describe('the result cache', () => {
  let build: Build;
  let bench: WorkerBench;
  let server: ApiServer;
  let uncached: ApiServer;
  beforeAll(async () => {
    build = await buildService();
    bench = await startWorkerBench(build);
    const worker = await bench.startWorker();
    await worker.ready;
    const start = (cache: string) =>
      startServer({
        config: workerConfig({
          PORT: '0',
          RESULT_CACHE: cache,
          WEBHOOK_SECRET: webhookSecret,
          WEBHOOK_ALLOWED_HOSTS: '127.0.0.1',
        }),
        queue: bench.queue,
        store: bench.store,
        logger: pino({ level: 'silent' }),
      });
    server = await start('on');
    uncached = await start('off');
  });
  afterAll(async () => {
    await server.close();
    await uncached.close();
    await bench.stop();
    await build.remove();
  });
  const post = (query = '', headers: Record<string, string> = {}, image = png) =>
    postTo(server.url, query, { prefer: 'wait=30', ...headers }, image);
  const get = (path: string) => send(`${server.url}${path}`);
  /** The worker notes what it has made just after the job has ended. @returns the name of the note */
  const noted = (id: string | null) =>
    vi.waitFor(
      async () => {
        for (const name of await bench.redis.client.keys('pisa:made:*')) {
          if ((await bench.redis.client.get(name)) === id) return name;
        }
        throw new Error('not noted yet');
      },
      { timeout: 20_000 },
    );

  test('an equal request is answered from the stored result, at once, as a job of its own', async () => {
    const first = await post('?sem=0.5');
    expect(first.headers.get('x-cache')).toBe('miss');
    const made = json<JobObject>(first);
    expect(made).toMatchObject({ status: 'succeeded', reused: false });
    await noted(made.id);
    const counted = async () => (await metrics.jobs.get()).values.map(({ value }) => value);
    const before = await counted();

    const second = await post('?sem=0.5&quality=50&ttl=900', { prefer: 'respond-async' });
    expect(second.status).toBe(200);
    expect(second.headers.get('x-cache')).toBe('hit');
    const hit = json<JobObject>(second);
    expect(hit).toMatchObject({
      status: 'succeeded',
      reused: true,
      ttl_seconds: 900,
      timings_ms: null,
      output: { ...made.output, url: `/upscale/${hit.id}/result`, expires_at: expect.anything() },
    });
    expect(hit.id).not.toBe(made.id);
    expect(Date.parse(hit.output?.expires_at ?? '') - Date.parse(hit.created_at)).toBe(900_000);
    expect(json(await get(hit.urls.self))).toEqual(hit);
    expect((await get(hit.urls.result)).body.equals((await get(made.urls.result)).body)).toBe(true);
    expect(await counted()).toEqual(before);

    const stream = await openStream(`${server.url}${hit.urls.events}`);
    await stream.ended;
    expect(stream.events.map(({ data }) => data.status)).toEqual(['succeeded']);
  });

  test('Cache-Control is obeyed in any case, and with values', async () => {
    const ask = (wish: string) => post('?sem=0.74', { 'cache-control': wish });
    await noted(json<JobObject>(await ask('max-age=0')).id);
    for (const wish of ['No-Store', 'max-age=0, No-Cache', 'no-cache="x"', 'max-age=0']) {
      const outcome = wish === 'max-age=0' ? 'hit' : 'bypass';
      expect((await ask(wish)).headers.get('x-cache'), wish).toBe(outcome);
    }
  });

  test('bytes on request come from it too', async () => {
    const first = await post('?sem=0.6', { accept: 'image/webp' });
    await noted(first.headers.get('x-job-id'));
    const second = await post('?sem=0.6&format=webp', { accept: 'image/*' });
    expect(second.headers.get('x-cache')).toBe('hit');
    expect(second.headers.get('server-timing')).toBe('cache;desc=hit');
    expect(second.headers.get('content-type')).toBe('image/webp');
    expect(second.body.equals(first.body)).toBe(true);
    const values = (await metrics.resultCache.get()).values;
    expect(values.find(({ labels }) => labels.outcome === 'hit')?.value).toBeGreaterThan(0);
  });

  test('each of the two can be deleted, and the other stays', async () => {
    const made = json<JobObject>(await post('?sem=0.7'));
    const note = await noted(made.id);
    const hit = json<JobObject>(await post('?sem=0.7'));
    const third = json<JobObject>(await post('?sem=0.7'));
    expect([hit.reused, third.reused]).toEqual([true, true]);
    const remove = (job: JobObject) =>
      send(`${server.url}${job.urls.cancel}`, { method: 'DELETE' });
    expect((await remove(hit)).status).toBe(204);
    expect((await get(hit.urls.self)).status).toBe(404);
    expect(await bench.store.get(outputKey(hit.id))).toBeUndefined();
    expect((await get(made.urls.result)).status).toBe(200);
    expect(await bench.redis.client.get(note)).toBe(made.id);
    expect((await remove(made)).status).toBe(204);
    expect(await bench.redis.client.exists(note)).toBe(0);
    expect((await get(third.urls.result)).status).toBe(200);
    // What was made is gone: it is made again.
    expect((await post('?sem=0.7')).headers.get('x-cache')).toBe('miss');
  });

  test('it answers while the copies that it has made have room, else a device does', async () => {
    const { redis } = bench;
    const query = '?sem=0.71';
    const made = json<JobObject>(await post(query));
    await noted(made.id);
    const maxBytes = 512_000_000;
    const taken = async () => Number(await redis.client.hget('pisa:copies:bytes', '*'));
    const remove = ({ urls }: JobObject) =>
      send(`${server.url}${urls.cancel}`, { method: 'DELETE' });
    const before = await taken();
    const first = json<JobObject>(await post(query));
    // With its record, and no less than the smallest object takes.
    const bytes = (await taken()) - before;
    expect(bytes).toBe(Math.max(made.output?.bytes ?? 0, 4096) + 2048);
    await remove(first);
    expect(await taken()).toBe(before);
    const others = { name: 'others', bytes: maxBytes - before - 2 * bytes + 1 };
    const counted = [{ ...others, until: Date.now() + 60_000 }];
    const [rival, bounds] = [{ client: 'rival' }, { maxBytes, maxClientBytes: maxBytes }];
    expect(await admitReuse(redis.client, rival, counted, bounds)).toBe(true);
    const hit = await post(query);
    expect(hit.headers.get('x-cache')).toBe('hit');

    const keyed = { 'idempotency-key': crypto.randomUUID() };
    const run = await post(query, keyed);
    expect(run.headers.get('x-cache')).toBe('miss');
    expect(json<JobObject>(run)).toMatchObject({ status: 'succeeded', reused: false });
    const retry = await post(query, keyed);
    expect(retry.headers.get('idempotency-replayed')).toBe('true');
    expect(json<JobObject>(retry).id).toBe(json<JobObject>(run).id);
    expect(await taken()).toBe(maxBytes - bytes + 1);

    await remove(json<JobObject>(hit));
    expect(await taken()).toBe(maxBytes - 2 * bytes + 1);
    expect((await post(query)).headers.get('x-cache')).toBe('hit');
    await forgetReuse(redis.client, rival, [others]);
  });

  test('a copy that cannot be made takes no room', async () => {
    const made = json<JobObject>(await post('?sem=0.73'));
    await noted(made.id);
    const taken = () => bench.redis.client.hgetall('pisa:copies:bytes');
    const before = await taken();
    const away = new AppError('storage_unavailable', 'The storage is away.');
    const copy = vi.spyOn(FolderStore.prototype, 'copy').mockRejectedValueOnce(away);
    expect((await post('?sem=0.73')).status).toBe(503);
    expect(copy).toHaveBeenCalledOnce();
    copy.mockRestore();
    expect(await taken()).toEqual(before);
  });

  test('its job is known for as long again, and an hour at least', async () => {
    const made = json<JobObject>(await post('?sem=0.75'));
    await noted(made.id);
    for (const [ttl, known] of [
      [1, 3601],
      [7200, 14_400],
      [172_800, 259_200],
    ]) {
      const { id } = json<JobObject>(await post(`?sem=0.75&ttl=${ttl}`));
      const left = await bench.redis.client.ttl(`pisa:reused:${id}`);
      expect(left, `ttl=${ttl}`).toBeGreaterThan((known ?? 0) - 10);
      expect(left, `ttl=${ttl}`).toBeLessThanOrEqual(known ?? 0);
    }
  });

  test('its job is known for as long as a key leads to it', async () => {
    const made = json<JobObject>(await post('?sem=0.76'));
    await noted(made.id);
    const hit = await post('?sem=0.76&ttl=1', { 'idempotency-key': crypto.randomUUID() });
    expect(hit.headers.get('x-cache')).toBe('hit');
    const left = await bench.redis.client.ttl(`pisa:reused:${json<JobObject>(hit).id}`);
    expect(left).toBeGreaterThan(86_400 - 10);
  });

  test('what it leaves is counted for as long as it is there', async () => {
    const { redis } = bench;
    const made = json<JobObject>(await post('?sem=0.77'));
    await noted(made.id);
    /** Bytes, and seconds from its creation, of what is counted for a job. */
    const counted = async ({ id, created_at }: JobObject): Promise<Record<string, unknown>> => {
      const members = await redis.client.zrange('pisa:copies:until', 0, '-1');
      const ours = members.filter((member) => member.startsWith(id));
      const facts = ours.map(async (member) => {
        const [name = '', bytes] = member.split(' ');
        const until = Number(await redis.client.zscore('pisa:copies:until', member));
        return [name.slice(id.length), [Number(bytes), (until - Date.parse(created_at)) / 1000]];
      });
      return Object.fromEntries(await Promise.all(facts));
    };
    const plain = json<JobObject>(await post('?sem=0.77&ttl=1'));
    const copy = Math.max(made.output?.bytes ?? 0, 4096);
    // The longest sweep of a store is ten minutes; the `resultTtlSeconds` of the bench are an hour.
    expect(await counted(plain)).toEqual({ '': [copy, 601], ':record': [2048, 3601] });
    const url = 'https://127.0.0.1:9/';
    const told = json<JobObject>(await post(`?sem=0.77&ttl=1&webhook=${encodeURIComponent(url)}`));
    const record = 2048 + 4096 + 3 * url.length;
    expect(await counted(told)).toEqual({ '': [copy, 601], ':record': [record, 25 * 3600] });
    const remove = ({ urls }: JobObject) =>
      send(`${server.url}${urls.cancel}`, { method: 'DELETE' });
    await Promise.all([remove(plain), remove(told)]);
    expect(await counted(plain)).toEqual({});
    // Its webhook has not been delivered yet.
    expect(await counted(told)).toEqual({ ':record': [record, 25 * 3600] });
    const delivery = await redis.client.memory('USAGE', `bull:webhooks:${told.id}`);
    expect(delivery).toBeLessThan(record);
  });

  test('uploads that it keeps no more are counted no more', async () => {
    const made = json<JobObject>(await post('?sem=0.78'));
    await noted(made.id);
    // What had to go for them cannot be deleted.
    await bench.redis.client.zadd('pisa:kept:used', 1, 'input/old');
    await bench.redis.client.zadd('pisa:kept:expires', Date.now() + 60_000, 'input/old');
    await bench.redis.client.hset('pisa:kept:bytes', 'input/old', 512_000_000);
    await bench.redis.client.incrby('pisa:kept:total', 512_000_000);
    const away = new AppError('storage_unavailable', 'The storage is away.');
    const remove = vi.spyOn(FolderStore.prototype, 'delete').mockRejectedValueOnce(away);
    const hit = await post('?sem=0.78');
    expect(hit.headers.get('x-cache')).toBe('hit');
    expect(remove).toHaveBeenCalledWith('input/old');
    remove.mockRestore();
    const kept = await bench.redis.client.hkeys('pisa:kept:bytes');
    expect(kept).toContain(inputKey(made.id));
    expect(kept).not.toContain(inputKey(json<JobObject>(hit).id));
  });

  test('a result that has gone meanwhile takes no room', async () => {
    const made = json<JobObject>(await post('?sem=0.72'));
    await noted(made.id);
    const taken = () => bench.redis.client.hgetall('pisa:copies:bytes');
    const before = await taken();
    await bench.store.delete(outputKey(made.id));
    expect((await post('?sem=0.72')).headers.get('x-cache')).toBe('miss');
    expect(await taken()).toEqual(before);
  });

  test.each([
    ['another image', '?sem=0.41', () => other],
    ['another parameter', '?sem=0.41&pix=0.9', () => png],
    ['another format', '?sem=0.41&format=jpeg', () => png],
  ])('%s is another request', async (_what, query, image) => {
    const first = await post('?sem=0.41', { 'cache-control': 'no-cache' });
    await noted(first.headers.get('x-job-id'));
    expect((await post(query, {}, image())).headers.get('x-cache')).toBe('miss');
  });

  test('another bundle of the same name is another request', async () => {
    const made = json<JobObject>(await post('?sem=0.42'));
    const name = await noted(made.id);
    await bench.redis.client.rename(name, name.replace(/[0-9a-f]{64}$/, 'f'.repeat(64)));
    expect((await post('?sem=0.42')).headers.get('x-cache')).toBe('miss');
  });

  test('a client can ask for a new result, or for none to be kept', async () => {
    const unkept = await post('?sem=0.43', { 'cache-control': 'no-store' });
    expect(unkept.headers.get('x-cache')).toBe('bypass');
    const kept = await post('?sem=0.43');
    expect(kept.headers.get('x-cache')).toBe('miss');
    await noted(kept.headers.get('x-job-id'));
    const fresh = await post('?sem=0.43', { 'cache-control': 'no-cache' });
    expect(fresh.headers.get('x-cache')).toBe('bypass');
    expect(json<JobObject>(fresh)).toMatchObject({ reused: false, status: 'succeeded' });
  });

  test('a retry of an answer from the cache gets the same job', async () => {
    await noted((await post('?sem=0.8')).headers.get('x-job-id'));
    const key = { 'idempotency-key': 'again' };
    const first = await post('?sem=0.8', key);
    expect(first.headers.get('x-cache')).toBe('hit');
    const second = await post('?sem=0.8', key);
    expect(second.headers.get('idempotency-replayed')).toBe('true');
    expect(json<JobObject>(second)).toEqual(json<JobObject>(first));
  });

  test('switched off, nothing is looked for and nothing is kept', async () => {
    const send = () => postTo(uncached.url, '?sem=0.9', { prefer: 'wait=30' });
    const answers = [await send(), await send()];
    for (const answer of answers) {
      expect(answer.headers.get('x-cache')).toBeNull();
      expect(json<JobObject>(answer).reused).toBe(false);
    }
    const data = await bench.inspector.getJob(json<JobObject>(answers[0] as Answer).id);
    expect(data?.data.contentKey).toBeUndefined();
  });
});
