/** The queue as the api sees it, on a real Redis and without any worker. */
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import { Worker } from 'bullmq';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { AppError } from '../../src/errors.ts';
import { inputKey, outputKey, upscaleQueueName } from '../../src/jobs/job.ts';
import type { UpscaleJob } from '../../src/jobs/job-snapshot.ts';
import { UpscaleQueue } from '../../src/jobs/queue.ts';
import { connectRedis, redisOptions } from '../../src/jobs/redis.ts';
import {
  listWorkers,
  locateModel,
  reportWorker,
  type WorkerReport,
  withdrawWorker,
} from '../../src/jobs/worker-registry.ts';
import type { ObjectStore } from '../../src/storage/object-store.ts';
import { openStore } from '../../src/storage/open-store.ts';
import { ModelAbsent, requireModel } from '../../src/worker/absent-model.ts';
import { writeFinishedJob } from '../support/finished-job.ts';
import { limitFileSize } from '../support/processes.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { jobData } from '../support/worker.ts';

const image = Buffer.from('the bytes of an image');

let redis: TestRedis;
let store: ObjectStore;
let queue: UpscaleQueue;
const closers: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  redis = await startRedis();
  const folder = path.join(redis.folder, 'objects');
  store = openStore({ kind: 'folder', folder }, { role: 'producer', sweep: false });
  queue = new UpscaleQueue({ redisUrl: redis.url, store, resultTtlSeconds: 3600 });
  await queue.ready(10_000);
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
  await queue.close();
  await store.close();
  await redis.stop();
});

const submit = async (id = randomUUID()): Promise<string> => {
  await queue.submit(id, { image }, jobData(id, image));
  return id;
};

const wait = async (id: string, timeoutMs = 60_000, signal?: AbortSignal) => {
  const accepted = await queue.get(id);
  return accepted && queue.waitFor(accepted, timeoutMs, signal);
};

/** A worker without devices: `work` stands for what one would do. */
const startFakeWorker = (work: (id: string) => Promise<unknown>): Worker => {
  const worker = new Worker(upscaleQueueName, (job) => work(job.id ?? ''), {
    connection: redisOptions(redis.url, 'consumer'),
  });
  worker.on('error', () => {});
  closers.push(() => worker.close(true));
  return worker;
};

describe('submit', () => {
  test('stores the input and queues the job', async () => {
    const id = randomUUID();
    const submitted = await queue.submit(id, { image }, jobData(id, image));
    expect(submitted).toMatchObject({ id, status: 'queued' });
    expect(await store.get(inputKey(id))).toEqual(image);
    expect(await queue.get(id)).toEqual({ ...submitted, queuePosition: 0 });
    expect(await queue.counts()).toEqual({ queued: 1, processing: 0 });
  });

  test('puts nothing of the image into Redis', async () => {
    const id = await submit();
    const record = JSON.stringify(await redis.client.hgetall(`bull:upscale:${id}`));
    expect(record).not.toContain(image.toString());
    expect(record).not.toContain(image.toString('base64'));
  });

  test('leaves no input behind when the queue cannot take it', async () => {
    const id = randomUUID();
    await redis.kill();
    const submitted = queue.submit(id, { image }, jobData(id, image));
    await expect(submitted).rejects.toMatchObject({ code: 'redis_unavailable' });
    expect(await store.get(inputKey(id))).toBeUndefined();
  });
});

describe('the position in the queue', () => {
  test('counts the jobs ahead', async () => {
    const ids = [await submit(), await submit(), await submit()];
    const positions = async () =>
      Promise.all(ids.map(async (id) => (await queue.get(id))?.queuePosition));
    expect(await positions()).toEqual([0, 1, 2]);
    await queue.remove(ids[1] ?? '');
    expect(await positions()).toEqual([0, undefined, 1]);
  });
});

test('an id that nobody submitted is unknown to every method', async () => {
  const id = randomUUID();
  expect(await queue.get(id)).toBeUndefined();
  expect(await queue.remove(id)).toBeUndefined();
});

describe('removing', () => {
  test('a job that waits cancels it: it never runs and still reads as canceled', async () => {
    const id = await submit();
    const removed = await queue.remove(id);
    expect(removed).toMatchObject({
      outcome: 'canceled',
      job: { id, status: 'canceled', error: { code: 'canceled' } },
    });
    expect(await queue.get(id)).toEqual(removed?.outcome === 'canceled' ? removed.job : {});
    expect(await store.get(inputKey(id))).toBeUndefined();
    expect(await queue.counts()).toEqual({ queued: 0, processing: 0 });
    const seconds = await redis.client.ttl(`pisa:canceled:${id}`);
    expect(seconds).toBeGreaterThan(3600);
  });

  test('a canceled job deletes its record', async () => {
    const id = await submit();
    await queue.remove(id);
    expect(await queue.remove(id)).toEqual({ outcome: 'deleted' });
    expect(await queue.get(id)).toBeUndefined();
    expect(await redis.client.keys(`*${id}*`)).toEqual([]);
  });

  test('a job that runs cancels it, as often as it is asked, until the worker obeys', async () => {
    const id = await submit();
    const published: string[] = [];
    const subscriber = connectRedis(redis.url, 'consumer');
    closers.push(async () => subscriber.disconnect());
    await subscriber.subscribe('pisa:cancel');
    subscriber.on('message', (_channel, message) => published.push(message));
    let obey: (error: Error) => void = () => {};
    const started = new Promise<void>((resolve) => {
      startFakeWorker(() => {
        resolve();
        return new Promise((_, reject) => {
          obey = reject;
        });
      });
    });
    await started;
    expect(await queue.get(id)).toMatchObject({ status: 'processing' });
    expect(await queue.remove(id)).toMatchObject({ outcome: 'canceled' });
    expect(await queue.remove(id)).toMatchObject({ outcome: 'canceled' });
    expect(await queue.get(id)).toMatchObject({
      status: 'canceled',
      startedAt: expect.any(Number),
      completedAt: expect.any(Number),
    });
    await expect.poll(() => published).toEqual([id]);
    obey(new Error('obeyed'));
  });

  test('a job that has failed deletes it', async () => {
    const id = await submit();
    const { UnrecoverableError } = await import('bullmq');
    startFakeWorker(() =>
      Promise.reject(new UnrecoverableError('{"code":"corrupt_image","detail":"No."}')),
    );
    expect(await wait(id)).toMatchObject({
      status: 'failed',
      error: { code: 'corrupt_image', message: 'No.' },
    });
    await store.put(outputKey(id), image, 60);
    expect(await queue.remove(id)).toEqual({ outcome: 'deleted' });
    expect(await queue.get(id)).toBeUndefined();
    expect(await store.get(inputKey(id))).toBeUndefined();
    expect(await store.get(outputKey(id))).toBeUndefined();
  });
});

describe('while a job is deleted', () => {
  const away = new AppError('storage_unavailable', 'The store is away.');
  /** A job that has failed. */
  const submitBad = async (): Promise<string> => {
    const id = await submit();
    const { UnrecoverableError } = await import('bullmq');
    const text = '{"code":"corrupt_image","detail":"No."}';
    const worker = startFakeWorker(() => Promise.reject(new UnrecoverableError(text)));
    await wait(id);
    await worker.close();
    await store.put(outputKey(id), image, 60);
    return id;
  };

  test('the store is away: the job stays, and is deleted when it is asked for again', async () => {
    const id = await submitBad();
    vi.spyOn(store, 'delete').mockRejectedValueOnce(away);
    await expect(queue.remove(id)).rejects.toBe(away);
    expect(await queue.get(id)).toMatchObject({ status: 'failed' });
    expect(await queue.remove(id)).toEqual({ outcome: 'deleted' });
    expect(await queue.get(id)).toBeUndefined();
    expect(await store.get(inputKey(id))).toBeUndefined();
    expect(await store.get(outputKey(id))).toBeUndefined();
  });

  test('its id is not free before its images are gone: they would take those of the next one along', async () => {
    const id = await submitBad();
    const ended = await queue.get(id);
    if (!ended) throw new Error('The failed job is gone.');
    const deleteObject = store.delete.bind(store);
    const found: unknown[] = [];
    vi.spyOn(store, 'delete').mockImplementation(async (key) => {
      found.push((await queue.get(id))?.status);
      await deleteObject(key);
    });
    await Promise.all([queue.removeEnded(ended), queue.removeEnded(ended)]);
    expect(new Set(found)).toEqual(new Set(['failed']));
    expect(await queue.get(id)).toBeUndefined();
  });

  test('who could not delete it leaves that to the next one', async () => {
    const id = await submitBad();
    const ended = await queue.get(id);
    if (!ended) throw new Error('The failed job is gone.');
    vi.spyOn(store, 'delete').mockRejectedValueOnce(away);
    await expect(queue.removeEnded(ended)).rejects.toBe(away);
    expect(await redis.client.keys('pisa:removal:*')).toEqual([]);
    await queue.removeEnded(ended);
    expect(await queue.get(id)).toBeUndefined();
  });

  test('a worker that takes it again, canceled as it is, still finds that it is', async () => {
    const id = await submit();
    let fail: (error: Error) => void = () => {};
    const takes: (() => void)[] = [];
    const taken = () => new Promise<void>((resolve) => takes.push(resolve));
    const [first, second] = [taken(), taken()];
    const worker = startFakeWorker(() => {
      takes.shift()?.();
      return new Promise((_, reject) => {
        fail = reject;
      });
    });
    await first;
    expect(await queue.remove(id)).toMatchObject({ outcome: 'canceled' });
    const putOff = new Promise((resolve) => worker.once('failed', resolve));
    fail(new Error('{"code":"device_lost","detail":"Gone."}'));
    await putOff;
    const deleteObject = store.delete.bind(store);
    vi.spyOn(store, 'delete').mockImplementation(async (key) => {
      await second;
      await deleteObject(key);
    });
    expect(await queue.remove(id)).toMatchObject({ outcome: 'canceled', job: { id } });
    expect(await redis.client.exists(`pisa:canceled:${id}`)).toBe(1);
    fail(new Error('obeyed'));
  });
});

test('of many who replace a job that has ended nobody takes away what another has entered', async () => {
  const id = await submit();
  await queue.remove(id);
  const ended = await queue.get(id);
  if (!ended) throw new Error('The canceled job is gone.');
  const data = jobData(id, image);
  const replace = async () => {
    await queue.removeEnded(ended);
    return queue.submit(id, { image }, data, { mayExist: true });
  };
  const entered = await Promise.all(Array.from({ length: 20 }, replace));
  expect(new Set(entered.map(({ status }) => status))).toEqual(new Set(['queued']));
  expect(new Set(entered.map(({ createdAt }) => createdAt)).size).toBe(1);
  expect(await queue.counts()).toEqual({ queued: 1, processing: 0 });
});

describe('waiting for a job', () => {
  test('ends when the job does', async () => {
    const id = await submit();
    const waiting = wait(id);
    startFakeWorker(async () => ({ output: { key: outputKey(id) } }));
    expect(await waiting).toMatchObject({ status: 'succeeded' });
  });

  test('ends when somebody cancels it', async () => {
    const id = await submit();
    const waiting = wait(id);
    await queue.remove(id);
    expect(await waiting).toMatchObject({ status: 'canceled' });
  });

  test('ends with the unfinished job when the time is up', async () => {
    const id = await submit();
    expect(await wait(id, 50)).toMatchObject({ status: 'queued', queuePosition: 0 });
  });

  test('ends when the client goes away', async () => {
    const id = await submit();
    const client = new AbortController();
    const waiting = wait(id, 60_000, client.signal);
    client.abort();
    expect(await waiting).toMatchObject({ status: 'queued' });
  });

  test('ends without a job when that is deleted', async () => {
    const id = await submit();
    const accepted = await queue.get(id);
    await queue.remove(id);
    await queue.remove(id);
    expect(accepted && (await queue.waitFor(accepted, 60_000))).toBeUndefined();
  });

  test('outlasts a Redis that restarts, and one that is away when the wait begins', async () => {
    const id = randomUUID();
    const accepted = await queue.submit(id, { image }, jobData(id, image));
    const before = wait(id);
    // Asked after the wait has looked: when it is answered, so is that.
    await queue.get(id);
    await redis.kill();
    const after = queue.waitFor(accepted, 60_000);
    await redis.restart();
    startFakeWorker(async () => ({ output: { key: outputKey(id) } }));
    expect(await before).toMatchObject({ status: 'succeeded' });
    expect(await after).toMatchObject({ status: 'succeeded' });
  });
});

test('who was told nothing of an answer from a stored result, Redis being away by then, is told at the retry', async () => {
  const claim = { client: 'anyone', key: 'a key', fingerprint: 'of the request' };
  const webhook = { url: 'https://example.com/', attempts: 1 };
  const id = await writeFinishedJob({ redis, store }, image, { webhook });
  expect(await queue.claim(claim, id, 60)).toEqual({ id });
  const { job } = await queue.claim(claim, randomUUID(), 60);
  expect(job).toMatchObject({ id, reused: true, webhook: { url: webhook.url, status: 'pending' } });
  expect(await queue.claim(claim, randomUUID(), 60)).toEqual({ id, job });
  expect(await redis.client.lrange('bull:webhooks:wait', 0, -1)).toEqual([id]);
});

test('who was told is not told again when the delivery is no longer on record', async () => {
  const claim = { client: 'anyone', key: 'a key', fingerprint: 'of the request' };
  const webhook = { url: 'https://example.com/', attempts: 1 };
  const id = await writeFinishedJob({ redis, store }, image, { webhook });
  const record = JSON.parse((await redis.client.get(`pisa:reused:${id}`)) ?? '');
  const recordTtlMs = (3600 + 86_400) * 1000;
  const older = { ...record, createdAt: Date.now() - recordTtlMs - 1 };
  await redis.client.set(`pisa:reused:${id}`, JSON.stringify(older), 'KEEPTTL');
  await queue.claim(claim, id, 60);
  const { job } = await queue.claim(claim, randomUUID(), 60);
  expect(job).toMatchObject({ id, reused: true });
  expect(job?.webhook).toBeUndefined();
  expect(await redis.client.exists(`bull:webhooks:${id}`)).toBe(0);
});

test('a copy that 0.6.0 has noted gives its room back when it is deleted', async () => {
  const id = await writeFinishedJob({ redis, store }, image, { client: 'shop' });
  await redis.client.zadd('pisa:copies:until', Date.now() + 60_000, `${id} 6144 shop`);
  await redis.client.hset('pisa:copies:bytes', { '*': 6144, shop: 6144 });
  expect(await queue.remove(id)).toEqual({ outcome: 'deleted' });
  expect(await redis.client.exists('pisa:copies:until', 'pisa:copies:bytes')).toBe(0);
});

test('text that BullMQ wrote into a failed job is a lost device, in our words', async () => {
  const id = await submit();
  const { UnrecoverableError } = await import('bullmq');
  startFakeWorker(() =>
    Promise.reject(new UnrecoverableError('job stalled more than allowable limit')),
  );
  const job = await wait(id);
  expect(job).toMatchObject({ status: 'failed', error: { code: 'device_lost' } });
  expect(job?.error?.message).not.toContain('stalled');
});

test('with Redis away every method says so at once, and works again when it is back', async () => {
  const id = await submit();
  const accepted = await queue.get(id);
  await redis.kill();
  const calls: (() => Promise<unknown>)[] = [
    () => queue.get(id),
    () => queue.remove(id),
    () => queue.counts(),
    () => queue.workers(),
    () => queue.models(),
    () => queue.ready(1),
  ];
  for (const call of calls) {
    const error = await call().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(AppError);
    expect(error).toMatchObject({ code: 'redis_unavailable', retryAfterSeconds: 5 });
  }
  // A wait is for a job that was accepted: it ends with that.
  expect(accepted && (await queue.waitFor(accepted, 50))).toEqual(accepted);
  await redis.restart();
  await queue.ready(10_000);
  expect(await queue.get(id)).toMatchObject({ status: 'queued' });
});

describe('a Redis that refuses writes', () => {
  const config = (...setting: [string, string]) => redis.client.config('SET', ...setting);
  const fullMemory = {
    refuse: () => config('maxmemory', '1'),
    recover: () => config('maxmemory', '0'),
  };
  const fullDisk = {
    /** The process that saves ends at the limit. */
    refuse: async () => {
      await config('appendonly', 'no');
      await config('save', '3600 1');
      const [, pid] = /process_id:(\d+)/.exec(await redis.client.info('server')) ?? [];
      limitFileSize(Number(pid), 10);
      await redis.client.bgsave();
      await expect
        .poll(() => redis.client.info('persistence'))
        .toContain('rdb_last_bgsave_status:err');
    },
    recover: () => config('stop-writes-on-bgsave-error', 'no'),
  };

  test.each([
    ['memory', fullMemory, /^Redis refuses writes: command not allowed when used memory/],
    ['disk', fullDisk, /^Redis refuses writes: Redis is configured to save RDB snapshots, but/],
  ])('for its %s is full says so, and takes jobs again afterwards', async (_, fault, message) => {
    const there = await submit();
    await fault.refuse();
    const refused = { code: 'redis_unavailable', message: expect.stringMatching(message) };
    const id = randomUUID();
    const data = jobData(id, image);
    const told = { ...data, webhook: { url: 'https://example.com/', attempts: 1 } };
    await expect(queue.submit(id, { image }, data)).rejects.toMatchObject(refused);
    await expect(queue.submit(id, { image }, told)).rejects.toMatchObject(refused);
    expect(await store.get(inputKey(id))).toBeUndefined();
    expect(await queue.get(there)).toMatchObject({ status: 'queued' });
    await fault.recover();
    await submit(id);
    expect(await queue.counts()).toEqual({ queued: 2, processing: 0 });
  });
});

test('a job is canceled though the memory of Redis is full, waiting or running', async () => {
  startFakeWorker(() => new Promise(() => {}));
  const running = await submit();
  await expect.poll(async () => (await queue.counts()).processing).toBe(1);
  const waiting = await submit();
  const told = randomUUID();
  const webhook = { url: 'https://example.com/', attempts: 1 };
  await queue.submit(told, { image }, { ...jobData(told, image), webhook });
  await redis.client.config('SET', 'maxmemory', '1');
  for (const id of [running, waiting, told]) {
    expect(await queue.remove(id)).toMatchObject({ outcome: 'canceled' });
    expect(await queue.get(id)).toMatchObject({ status: 'canceled' });
  }
  expect(await queue.counts()).toEqual({ queued: 0, processing: 1 });
  await redis.client.config('SET', 'maxmemory', '0');
});

test('a job in process for longer than its time limit and a margin is stuck', async () => {
  startFakeWorker(() => new Promise(() => {}));
  const id = await submit();
  await expect.poll(async () => (await queue.counts()).processing).toBe(1);
  const { timeoutMs } = jobData(id, image);
  const stuckAfter = async (ms: number): Promise<number> => {
    // As BullMQ notes when a worker takes it.
    await redis.client.hset(`bull:upscale:${id}`, 'processedOn', Date.now() - ms);
    return (await queue.observe()).stuck;
  };
  expect(await stuckAfter(0)).toBe(0);
  expect(await stuckAfter(timeoutMs + 30_000)).toBe(0);
  expect(await stuckAfter(timeoutMs + 61_000)).toBe(1);
});

describe('the worker registry', () => {
  const report: WorkerReport = {
    id: 'one',
    devices: [{ name: 'cpu', status: 'ready', jobs: 1 }],
    models: [
      {
        name: 'tiny',
        version: '1',
        sha256: 'a'.repeat(64),
        license: 'Apache-2.0',
        source: 'here',
        description: 'a model',
        scale: 4,
        colorfix: 'adain',
      },
    ],
    slots: 2,
  };

  test('forgets a worker that stopped reporting, but not its models', async () => {
    await reportWorker(redis.client, report);
    expect(await queue.workers()).toEqual([report]);
    expect(await queue.models()).toEqual([{ ...report.models[0], available: true }]);
    expect(await redis.client.pttl('pisa:worker:one')).toBeLessThanOrEqual(15_000);
    // What Redis does when the time to live is over.
    await redis.client.del('pisa:worker:one');
    expect(await queue.workers()).toEqual([]);
    expect(await redis.client.smembers('pisa:workers')).toEqual([]);
    expect(await queue.models()).toEqual([{ ...report.models[0], available: false }]);
  });

  test('knows of a worker whose devices are down that it does no job', async () => {
    await reportWorker(redis.client, report);
    const up = await locateModel(redis.client, 'tiny');
    expect(up.available).toBe(true);
    const down = { name: 'cpu', status: 'restarting', jobs: 0 } as const;
    await reportWorker(redis.client, { ...report, devices: [down] });
    // Not seen since: who waits for the model does not wait for ever.
    expect(await locateModel(redis.client, 'tiny')).toEqual({ ...up, available: false });
  });

  test('a job whose model only one worker has, which could not open it, is left to that one', async () => {
    await reportWorker(redis.client, { ...report, models: [], unopened: ['tiny'] });
    const job = { data: { params: { model: 'tiny' } }, timestamp: 1 } as UpscaleJob;
    const search = { redis: redis.client, models: [], unopened: [], arrivalMs: 1 };
    await expect(requireModel(job, search)).rejects.toBeInstanceOf(ModelAbsent);
    await expect(requireModel(job, { ...search, unopened: ['tiny'] })).resolves.toBeUndefined();
    await redis.client.del('pisa:worker:one');
    await expect(requireModel(job, search)).rejects.toMatchObject({ code: 'unknown_model' });
  });

  test('knows the models of a worker that warms up, and for how long they were waited for', async () => {
    const [model] = report.models;
    const before = Date.now();
    const starting = { name: 'cpu', status: 'starting', jobs: 0 } as const;
    await reportWorker(redis.client, { ...report, devices: [starting] });
    expect(await queue.models()).toEqual([{ ...model, available: true }]);
    const first = await locateModel(redis.client, 'tiny');
    expect(first).toMatchObject({ available: false, listed: true, unopened: false });
    expect(first.seenAt).toBeGreaterThanOrEqual(before);
    // It changes nothing of what is known, however often it starts, until it has a device that is ready.
    const seenLongAgo = JSON.stringify({ ...model, seenAt: 1 });
    await redis.client.hset('pisa:models', 'tiny', seenLongAgo);
    const next = { ...report, models: report.models.map((one) => ({ ...one, version: '2' })) };
    await reportWorker(redis.client, { ...next, devices: [starting] });
    expect(await redis.client.hget('pisa:models', 'tiny')).toBe(seenLongAgo);
    await reportWorker(redis.client, next);
    expect((await queue.models())[0]?.version).toBe('2');
    expect((await locateModel(redis.client, 'tiny')).seenAt).toBeGreaterThan(1);
  });

  test('forgets at once a worker that says good-bye', async () => {
    await reportWorker(redis.client, report);
    await reportWorker(redis.client, { ...report, id: 'two' });
    await withdrawWorker(redis.client, 'one');
    expect((await listWorkers(redis.client)).map(({ id }) => id)).toEqual(['two']);
  });
});
