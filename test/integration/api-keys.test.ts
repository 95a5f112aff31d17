/** API keys, their limits, and what one client sees of another. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { digestOfKey } from '../../src/api/clients/api-keys.ts';
import type { JobObject } from '../../src/api/job-object.ts';
import { startServer } from '../../src/api/server.ts';
import { AppError, type Problem } from '../../src/errors.ts';
import { ClientLimits } from '../../src/jobs/client-limits.ts';
import { heatmapId, type UpscaleJobData } from '../../src/jobs/job.ts';
import { metrics } from '../../src/metrics.ts';
import { startApi, type TestApi } from '../support/api.ts';
import { contract, expectContract } from '../support/contract.ts';
import { failJobs } from '../support/fail-jobs.ts';
import { writeFinishedJob } from '../support/finished-job.ts';
import { photo } from '../support/hostile-images.ts';
import { type Answer, json, parseRaw, rawExchange, send } from '../support/http.ts';

const shop = 'pisa_shop';
const rival = 'pisa_rival';
const slow = 'pisa_slow';
const single = 'pisa_single';
const calm = 'pisa_calm';
const entries = [
  { name: 'shop', sha256: digestOfKey(shop) },
  { name: 'rival', sha256: digestOfKey(rival), priorities: ['batch'] },
  { name: 'slow', sha256: digestOfKey(slow), requests_per_minute: 12, concurrent_jobs: 1 },
  { name: 'single', sha256: digestOfKey(single), concurrent_jobs: 1 },
  { name: 'calm', sha256: digestOfKey(calm), requests_per_minute: 6 },
  { name: 'old', sha256: digestOfKey('pisa_old'), expires_at: '2020-01-01T00:00:00Z' },
];
let folder: string;
let file: string;
let api: TestApi;
let png: Buffer;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-keys-'));
  file = path.join(folder, 'keys.json');
  await writeFile(file, JSON.stringify({ keys: entries }));
  api = await startApi({ API_KEYS_FILE: file, MAX_WAIT_SECONDS: '1' });
  png = await photo('png', 24, 16);
});
afterEach(async () => {
  vi.restoreAllMocks();
  await api.stop();
  await rm(folder, { recursive: true, force: true });
});

const bearer = (key: string) => ({ authorization: `Bearer ${key}` });
const call = async (operation: string, url: string, init: RequestInit = {}): Promise<Answer> => {
  const answer = await send(`${api.url}${url}`, init);
  expectContract(answer, operation);
  return answer;
};
const post = (headers: Record<string, string>, query = '') =>
  call('createUpscale', `/upscale${query}`, {
    method: 'POST',
    body: new Uint8Array(png),
    headers: { 'content-type': 'image/png', ...headers },
  });
const problem = (answer: Answer) => json<Problem>(answer);

const finishedJob = (client: string, more: Partial<UpscaleJobData> = {}) =>
  writeFinishedJob(api, png, { client, ...more });

describe('a key', () => {
  test('is asked for, in either of two headers, and never stored or logged', async () => {
    const none = await post({});
    expect(problem(none)).toMatchObject({ status: 401, code: 'unauthorized' });
    expect(none.headers.get('www-authenticate')).toBe('Bearer realm="pisa-serve"');
    expect(problem(await post(bearer('pisa_wrong'))).code).toBe('unauthorized');
    expect(problem(await post({ authorization: `Basic ${shop}` })).code).toBe('unauthorized');
    expect((await post(bearer(shop))).status).toBe(202);
    expect((await post({ 'x-api-key': shop })).status).toBe(202);
    const kept = await api.redis.client.keys('*');
    const jobs = await Promise.all(
      kept
        .filter((key) => /^bull:upscale:[0-9a-f]{8}-/.test(key))
        .map((key) => api.redis.client.hgetall(key)),
    );
    expect(JSON.stringify([kept, jobs, api.log])).not.toContain(shop);
    expect(api.log.some((line) => line.client === 'shop')).toBe(true);
  });

  test('that has expired is 403', async () => {
    expect(problem(await post(bearer('pisa_old')))).toMatchObject({
      status: 403,
      code: 'forbidden',
    });
  });

  test('may be for some priorities only', async () => {
    expect(problem(await post(bearer(rival))).code).toBe('forbidden');
    expect((await post(bearer(rival), '?priority=batch')).status).toBe(202);
  });

  test('adjusts with the priority of its job', async () => {
    const adjust = (id: string, query = '') =>
      call('adjustUpscale', `/upscale/${id}/adjust${query}`, {
        method: 'POST',
        headers: bearer(rival),
      });
    const batch = await finishedJob('rival', { priority: 'batch' });
    expect((await adjust(batch)).status).toBe(202);
    expect(problem(await adjust(batch, '?priority=interactive')).code).toBe('forbidden');
    expect(problem(await adjust(await finishedJob('rival'))).code).toBe('forbidden');
  });

  test('is refused before the upload', async () => {
    const head =
      'POST /upscale HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n';
    const answer = parseRaw(await rawExchange(api.port, [head]));
    expect(answer.status).toBe(401);
  });

  test('is asked for by every route but probes, metrics and the documents', async () => {
    const open = ['/healthz', '/readyz', '/metrics'];
    for (const [url, item] of Object.entries(contract.paths)) {
      for (const method of Object.keys(item)) {
        const answer = await send(`${api.url}${url.replace('{id}', crypto.randomUUID())}`, {
          method: method.toUpperCase(),
        });
        expect(answer.status === 401, `${method} ${url}`).toBe(!open.includes(url));
      }
    }
    expect((await send(`${api.url}/docs`)).status).toBe(200);
    expect((await send(`${api.url}/`)).status).toBe(200);
    expect((await send(`${api.url}/docs/json`)).status).toBe(200);
    expect((await send(`${api.url}/nowhere`)).status).toBe(404);
  });
});

describe('a client', () => {
  test('sees its own jobs only: those of others do not exist', async () => {
    const { id, urls } = json<JobObject>(await post(bearer(shop)));
    // Every route that takes an id, whatever comes to be added.
    const routes = Object.entries(contract.paths).filter(([url]) => url.includes('{id}'));
    expect(routes.length).toBeGreaterThan(3);
    for (const [url, item] of routes) {
      for (const [method, { operationId }] of Object.entries(item)) {
        const answer = await call(operationId, url.replace('{id}', id), {
          method: method.toUpperCase(),
          headers: bearer(rival),
        });
        expect(problem(answer), operationId).toMatchObject({ status: 404, code: 'job_not_found' });
      }
    }
    const own = await call('getUpscale', urls.self, { headers: bearer(shop) });
    expect(json<JobObject>(own)).toMatchObject({ id, status: 'queued' });
  });

  test('has each of its jobs looked up once in a request, to see whose it is and to answer', async () => {
    const id = await finishedJob('shop');
    const look = vi.spyOn(api.queue, 'get');
    const looks = async (method: string, url: string): Promise<number> => {
      look.mockClear();
      const answer = await send(`${api.url}${url}`, { method, headers: bearer(shop) });
      expect(answer.status, url).toBeLessThan(300);
      return look.mock.calls.filter(([asked]) => asked === id).length;
    };
    await api.store.put(`output/${id}`, png, 60);
    expect(await looks('GET', `/upscale/${id}`)).toBe(1);
    expect(await looks('GET', `/upscale/${id}/result`)).toBe(1);
    expect(await looks('POST', `/upscale/${id}/adjust`)).toBe(1);
    expect(await looks('GET', `/upscale/${id}/heatmap`)).toBe(1);
    // A stream begins with a look of its own, once it hears of changes.
    expect(await looks('GET', `/upscale/${id}/events`)).toBe(2);
    expect(await looks('DELETE', `/upscale/${id}`)).toBe(1);
  });

  test('owns what it makes of its own jobs, and they count', async () => {
    const id = await finishedJob('slow');
    const adjust = () =>
      send(`${api.url}/upscale/${id}/adjust?sem=0.5`, { method: 'POST', headers: bearer(slow) });
    const made = await adjust();
    expect(made.status).toBe(202);
    const { urls } = json<JobObject>(made);
    expect((await send(`${api.url}${urls.self}`, { headers: bearer(slow) })).status).toBe(200);
    expect((await send(`${api.url}${urls.self}`, { headers: bearer(shop) })).status).toBe(404);
    expect(problem(await adjust()).code).toBe('too_many_jobs');
  });

  test('has idempotency keys of its own', async () => {
    const key = { 'idempotency-key': 'one' };
    const first = await post({ ...bearer(shop), ...key }, '?priority=batch');
    const other = await post({ ...bearer(rival), ...key }, '?priority=batch&sem=0');
    expect(other.status).toBe(202);
    expect(json<JobObject>(other).id).not.toBe(json<JobObject>(first).id);
  });

  test('may have two keys while one is replaced', async () => {
    const both = [...entries, { name: 'shop', sha256: digestOfKey('pisa_new') }];
    await writeFile(file, JSON.stringify({ keys: both }));
    const { urls } = json<JobObject>(await post(bearer(shop)));
    // The file is looked at every few seconds.
    await expect
      .poll(
        async () => (await send(`${api.url}${urls.self}`, { headers: bearer('pisa_new') })).status,
        {
          timeout: 30_000,
          interval: 200,
        },
      )
      .toBe(200);
    await writeFile(file, '{"keys": [');
    await expect.poll(() => api.log.some(({ msg }) => msg.includes('API_KEYS_FILE'))).toBe(true);
    expect((await send(`${api.url}${urls.self}`, { headers: bearer(shop) })).status).toBe(200);
  });
});

describe('limits of a client', () => {
  test('so many jobs that have not ended, whoever ends them', async () => {
    const first = json<JobObject>(await post(bearer(slow)));
    const refused = await post(bearer(slow));
    expect(problem(refused)).toMatchObject({ status: 429, code: 'too_many_jobs' });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await post(bearer(shop))).status).toBe(202);
    const { values } = await metrics.requestsRefused.get();
    expect(values).toContainEqual(
      expect.objectContaining({ labels: { code: 'too_many_jobs', client: 'slow' } }),
    );
    await send(`${api.url}${first.urls.cancel}`, { method: 'DELETE', headers: bearer(slow) });
    const limits = new ClientLimits(api.redis.client);
    await limits.checkJobs('key/slow', 1);
  });

  test('so many requests in a minute, counted in Redis for all instances', async () => {
    const second = await startServer({
      config: { ...api.config, PORT: 0 },
      queue: api.queue,
      store: api.store,
      logger: api.logger,
    });
    const statuses: number[] = [];
    for (const url of [api.url, second.url, api.url]) {
      const answer = await send(`${url}/upscale`, {
        method: 'POST',
        body: 'no image',
        headers: { 'content-type': 'image/png', ...bearer(slow) },
      });
      statuses.push(answer.status);
      if (answer.status === 429) {
        expect(problem(answer).code).toBe('rate_limited');
        expect(Number(answer.headers.get('retry-after'))).toBeGreaterThanOrEqual(1);
        expect(Number(answer.headers.get('retry-after'))).toBeLessThanOrEqual(5);
      }
    }
    await second.close();
    // Twelve in a minute, two of them at once.
    expect(statuses).toEqual([415, 415, 429]);
    // Looking costs nothing.
    const look = await send(`${api.url}/models`, { headers: bearer(slow) });
    expect(look.status).toBe(200);
  });
});

describe('a retry', () => {
  test('gets its job although the client may have no other', async () => {
    const keyed = (key: string) => ({ ...bearer(single), 'idempotency-key': key });
    const first = await post(keyed('a'));
    expect(first.status).toBe(202);
    const again = await post(keyed('a'));
    expect(again.status).toBe(202);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(json<JobObject>(again).id).toBe(json<JobObject>(first).id);
    expect(problem(await post(keyed('b'))).code).toBe('too_many_jobs');
    expect(problem(await post(bearer(single))).code).toBe('too_many_jobs');
  });

  test('of an adjust gets its job although the one of the path has been deleted; nobody else does', async () => {
    const id = await finishedJob('rival', { priority: 'batch' });
    const adjust = (key: string) =>
      call('adjustUpscale', `/upscale/${id}/adjust`, {
        method: 'POST',
        headers: { ...bearer(key), 'idempotency-key': 'a' },
      });
    const first = await adjust(rival);
    expect(first.status).toBe(202);
    await send(`${api.url}/upscale/${id}`, { method: 'DELETE', headers: bearer(rival) });
    const again = await adjust(rival);
    expect(again.headers.get('idempotency-replayed')).toBe('true');
    expect(json<JobObject>(again).id).toBe(json<JobObject>(first).id);
    expect((await adjust(shop)).status).toBe(404);
    // The key of a job of its own is no key to this one.
    await post({ ...bearer(shop), 'idempotency-key': 'a' });
    expect((await adjust(shop)).status).toBe(404);
    // Nor does it get another when its own has failed: there is nothing left to make it of.
    await failJobs(api, [json<JobObject>(first).id], () => 'disk_full');
    const failedOne = await adjust(rival);
    expect(failedOne.headers.get('idempotency-replayed')).toBe('true');
    expect(json<JobObject>(failedOne)).toMatchObject({
      id: json<JobObject>(first).id,
      status: 'failed',
    });
  });

  test('of a request that made no job is within the limit like any other', async () => {
    const keyed = { ...bearer(single), 'idempotency-key': 'a' };
    vi.spyOn(api.queue, 'submit').mockRejectedValueOnce(new AppError('redis_unavailable', 'Gone.'));
    expect(problem(await post(keyed)).code).toBe('redis_unavailable');
    expect((await post(bearer(single))).status).toBe(202);
    expect(problem(await post(keyed)).code).toBe('too_many_jobs');
  });
});

describe('a heat map', () => {
  const heatmap = (id: string, method = 'GET') =>
    send(`${api.url}/upscale/${id}/heatmap`, { method, headers: bearer(calm) });

  test('that has to be made is a request that makes a job', async () => {
    const first = await finishedJob('calm');
    const second = await finishedJob('calm');
    expect((await heatmap(first)).status).toBe(202);
    // Six in a minute, one of them at once.
    const refused = await heatmap(second);
    expectContract(refused, 'getHeatmap');
    expect(problem(refused)).toMatchObject({ status: 429, code: 'rate_limited' });
    expect(Number(refused.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(await api.queue.get(heatmapId(second))).toBeUndefined();
    const { values } = await metrics.requestsRefused.get();
    expect(values).toContainEqual(
      expect.objectContaining({ labels: { code: 'rate_limited', client: 'calm' } }),
    );
    // It is being made already.
    expect((await heatmap(first)).status).toBe(202);
  });

  test('has the priority of its job', async () => {
    const batch = await finishedJob('calm', { priority: 'batch' });
    expect((await heatmap(batch)).status).toBe(202);
    const job = await api.queue.get(heatmapId(batch));
    expect(job?.data.priority).toBe('batch');
    expect(await api.redis.client.zcard('bull:upscale:prioritized')).toBe(1);
  });

  test('is not made by a HEAD', async () => {
    const id = await finishedJob('calm');
    expect((await heatmap(id, 'HEAD')).status).toBe(405);
    expect(await api.queue.get(heatmapId(id))).toBeUndefined();
  });
});

describe('the counts in Redis', () => {
  test('requests that come together are counted one by one, and come back with time', async () => {
    const limits = new ClientLimits(api.redis.client);
    const tries = await Promise.allSettled(
      Array.from({ length: 50 }, () => limits.takeRequest('a', 60)),
    );
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(10);
    // 6,000 a minute: the next is due after 10 ms.
    for (let n = 0; n < 1000; n += 1) await limits.takeRequest('b', 6000);
    await limits.takeRequest('c', 0);
    const fast = Array.from({ length: 100 }, () => limits.takeRequest('d', 6));
    const refused = (await Promise.allSettled(fast)).find(({ status }) => status === 'rejected');
    expect((refused as PromiseRejectedResult).reason).toMatchObject({
      code: 'rate_limited',
      retryAfterSeconds: 10,
    });
  });

  test('jobs that come together are counted one by one; one that never came is forgotten', async () => {
    const limits = new ClientLimits(api.redis.client);
    const ids = Array.from({ length: 20 }, () => crypto.randomUUID());
    const tries = await Promise.allSettled(ids.map((id) => limits.reserveJob('a', 5, id)));
    expect(tries.filter(({ status }) => status === 'fulfilled')).toHaveLength(5);
    // The same job once more is no other job.
    const taken = ids[tries.findIndex(({ status }) => status === 'fulfilled')] ?? '';
    await limits.reserveJob('a', 5, taken);
    await limits.releaseJob('a', taken);
    await limits.reserveJob('a', 5, crypto.randomUUID());
    await expect(limits.checkJobs('a', 5)).rejects.toMatchObject({ code: 'too_many_jobs' });
    // Its api died between the note and the queue.
    await limits.reserveJob('b', 1, ids[0] ?? '');
    await expect(limits.checkJobs('b', 1)).rejects.toMatchObject({ code: 'too_many_jobs' });
    await api.redis.client.zadd('pisa:jobs:b', 'XX', Date.now() - 61_000, ids[0] ?? '');
    await limits.checkJobs('b', 1);
    expect(await api.redis.client.zcard('pisa:jobs:b')).toBe(0);
  });
});

test.each([
  ['without keys', { CONCURRENT_JOBS_PER_CLIENT: 1, API_KEYS_FILE: '' }, 'too_many_jobs'],
  // Six in a minute: one at a time.
  ['without keys', { REQUESTS_PER_MINUTE_PER_CLIENT: 6, API_KEYS_FILE: '' }, 'rate_limited'],
  ['for a key without its own', { CONCURRENT_JOBS_PER_CLIENT: 1 }, 'too_many_jobs'],
  ['for a key without its own', { REQUESTS_PER_MINUTE_PER_CLIENT: 6 }, 'rate_limited'],
])('%s the limits are those of the settings: %j', async (_name, settings, code) => {
  const server = await startServer({
    config: { ...api.config, PORT: 0, ...settings },
    queue: api.queue,
    store: api.store,
    logger: api.logger,
  });
  const ask = () =>
    send(`${server.url}/upscale`, {
      method: 'POST',
      body: new Uint8Array(png),
      headers: { 'content-type': 'image/png', ...bearer(shop) },
    });
  const [first, second] = [await ask(), await ask()];
  await server.close();
  expect([first.status, second.status, problem(second).code]).toEqual([202, 429, code]);
  const isOpen = 'API_KEYS_FILE' in settings;
  const counted = code === 'too_many_jobs' ? 'jobs' : 'rate';
  const key = `pisa:${counted}:${isOpen ? 'address/127.0.0.1' : 'key/shop'}`;
  expect(await api.redis.client.exists(key)).toBe(1);
});
