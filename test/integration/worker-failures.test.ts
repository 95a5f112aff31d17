/** What goes wrong around a job: device processes, supervisors and Redis that die, hang or are told to stop. */
import { randomUUID } from 'node:crypto';
import { setTimeout as nextLook } from 'node:timers/promises';
import { Worker } from 'bullmq';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest';
import { inputKey, outputKey, upscaleQueueName } from '../../src/jobs/job.ts';
import { redisOptions } from '../../src/jobs/redis.ts';
import { metrics } from '../../src/metrics.ts';
import { FolderStore } from '../../src/storage/folder-store.ts';
import type { RunningWorker } from '../../src/worker/start-worker.ts';
import { type Build, buildService } from '../support/build.ts';
import { devicesOf, isAlive, limitFileSize, whileStopped } from '../support/processes.ts';
import {
  startWorkerBench,
  startWorkerProcess,
  testImage,
  testTimes,
  untilGone,
  type WorkerBench,
  workerConfig,
} from '../support/worker.ts';

let build: Build;
let bench: WorkerBench;

beforeAll(async () => {
  build = await buildService();
});
afterAll(() => build.remove());
beforeEach(async () => {
  bench = await startWorkerBench(build);
});
afterEach(async () => {
  vi.restoreAllMocks();
  await bench?.stop();
});

/**
 * The device process of the workers in this process. Waits for one that is just being started again: what is not there must
 * never become pid 0, which is the whole process group of the test run.
 */
const runningDevice = async (): Promise<number> => {
  for (;;) {
    const [device] = devicesOf(process.pid);
    if (device !== undefined) return device;
    await nextLook(10);
  }
};

const startReady = async (...args: Parameters<WorkerBench['startWorker']>) => {
  const worker = await bench.startWorker(...args);
  await worker.ready;
  return { worker, device: await runningDevice() };
};

const restarts = async (reason: string): Promise<number> => {
  const { values } = await metrics.deviceRestarts.get();
  return values.find(({ labels }) => labels.reason === reason)?.value ?? 0;
};

const attemptsLost = async (reason: string): Promise<number> => {
  const { values } = await metrics.jobAttemptsLost.get();
  return values.find(({ labels }) => labels.reason === reason)?.value ?? 0;
};

const attemptsMade = async (id: string): Promise<number> =>
  Number(await bench.redis.client.hget(`bull:upscale:${id}`, 'atm'));

/** Submits and resolves when the device has done some of it. */
const submitAndStart = async (edge: number): Promise<string> => {
  const id = await bench.submit(await testImage(edge));
  await bench.event(id, 'progress');
  return id;
};

const untilJobs = (worker: RunningWorker, count: number) =>
  expect.poll(() => worker.state().devices[0]?.jobs).toBe(count);

const untilReady = (worker: RunningWorker) =>
  expect.poll(() => worker.state().devices[0]?.status).toBe('ready');

describe('a device process', () => {
  test('that is killed is replaced, and its jobs run again', async () => {
    const { worker, device } = await startReady();
    const crashed = await restarts('crashed');
    const lost = await attemptsLost('device_lost');
    const first = await submitAndStart(400);
    const second = await whileStopped(device, async () => {
      const id = await bench.submit(await testImage(24));
      await untilJobs(worker, 2);
      process.kill(device, 'SIGKILL');
      await untilGone(device);
      return id;
    });
    const ids = [first, second];
    const jobs = await Promise.all(ids.map((id) => bench.ended(id)));
    expect(jobs.map(({ status }) => status)).toEqual(['succeeded', 'succeeded']);
    expect(await Promise.all(ids.map(attemptsMade))).toEqual([2, 2]);
    expect(await restarts('crashed')).toBe(crashed + 1);
    expect(await attemptsLost('device_lost')).toBe(lost + 2);
    expect(worker.state().devices).toEqual([{ name: 'cpu', status: 'ready', jobs: 0 }]);
    expect(devicesOf(process.pid)).not.toContain(device);
  });

  test('that dies at every attempt fails its job in the end, with a reason', async () => {
    const { worker } = await startReady();
    const id = await bench.submit(await testImage(400));
    for (let attempt = 1; attempt <= 3; attempt += 1) {
      await bench.event(id, 'progress');
      const device = await runningDevice();
      // What comes before this event is of the attempt that ends here.
      const next = attempt < 3 ? bench.event(id, 'active') : undefined;
      process.kill(device, 'SIGKILL');
      await next;
    }
    expect(await bench.ended(id)).toMatchObject({
      status: 'failed',
      error: { code: 'device_lost' },
    });
    await untilReady(worker);
    const next = await bench.ended(await bench.submit(await testImage(24)));
    expect(next.status).toBe('succeeded');
  });

  test('that hangs is found by its silence, killed and replaced', async () => {
    const { device } = await startReady({ DEVICE_HANG_SECONDS: '5' });
    const hung = await restarts('hung');
    const id = await submitAndStart(200);
    process.kill(device, 'SIGSTOP');
    expect((await bench.ended(id)).status).toBe('succeeded');
    expect(await restarts('hung')).toBe(hung + 1);
    expect(isAlive(device)).toBe(false);
  });

  test('that does not obey a cancel is killed; the other job in it loses no attempt', async () => {
    const { worker, device } = await startReady({}, { times: { ...testTimes, abortGraceMs: 200 } });
    const disobeyed = await restarts('disobeyed');
    const canceled = await submitAndStart(400);
    process.kill(device, 'SIGSTOP');
    const bystander = await bench.submit(await testImage(24));
    await untilJobs(worker, 2);
    expect(await bench.queue.remove(canceled)).toMatchObject({ outcome: 'canceled' });
    await untilGone(device);
    await bench.finished(canceled);
    expect(await bench.queue.get(canceled)).toMatchObject({ status: 'canceled' });
    expect(await bench.ended(bystander)).toMatchObject({ status: 'succeeded' });
    expect(await attemptsMade(bystander)).toBe(1);
    expect(await restarts('disobeyed')).toBe(disobeyed + 1);
  });

  test('that does not obey the time limit of a job is killed', async () => {
    const { device } = await startReady({}, { times: { ...testTimes, abortGraceMs: 200 } });
    const id = await bench.submit(await testImage(400), {}, { timeoutMs: 3000 });
    await bench.event(id, 'progress');
    process.kill(device, 'SIGSTOP');
    expect(await bench.ended(id)).toMatchObject({
      status: 'failed',
      error: { code: 'job_timeout' },
    });
    expect(isAlive(device)).toBe(false);
  });

  test('that has grown too large is replaced once its jobs are done', async () => {
    const config = { ...workerConfig(), DEVICE_MAX_RSS_MEGABYTES: 1 };
    const { worker, device } = await startReady({}, { config });
    const memory = await restarts('memory');
    const id = await bench.submit(await testImage(200));
    expect(await bench.ended(id)).toMatchObject({ status: 'succeeded' });
    expect(await attemptsMade(id)).toBe(1);
    await untilGone(device);
    await expect.poll(() => restarts('memory')).toBe(memory + 1);
    await untilReady(worker);
    const next = await bench.ended(await bench.submit(await testImage(24)));
    expect(next.status).toBe('succeeded');
  });

  test('that has grown too large leaves new jobs to others while it ends its own', async () => {
    const pause = vi.spyOn(Worker.prototype, 'pause');
    const config = { ...workerConfig(), DEVICE_MAX_RSS_MEGABYTES: 1 };
    const { worker } = await startReady({}, { config });
    const own = await bench.submit(await testImage(1000));
    await expect.poll(() => pause.mock.calls.length).toBeGreaterThan(0);
    expect(worker.state().devices).toEqual([{ name: 'cpu', status: 'ready', jobs: 1 }]);
    const next = await bench.submit(await testImage(24));
    await bench.queue.remove(own);
    expect(await bench.ended(next)).toMatchObject({ status: 'succeeded' });
    expect(await attemptsMade(next)).toBe(1);
    const taken = bench.log
      .map(({ msg, job }) => (job === undefined || job === next ? msg : ''))
      .filter((msg) => msg === 'the device process is replaced' || msg === 'job started');
    expect(taken).toEqual(['the device process is replaced', 'job started']);
  });
});

describe('a disk that is full', () => {
  test('is no reason to give its jobs a device for themselves', async () => {
    const { worker, device } = await startReady();
    limitFileSize(device, 10);
    const id = randomUUID();
    const delayed = bench.event(id, 'delayed');
    await bench.submit(await testImage(24), {}, {}, id);
    await delayed;
    limitFileSize(device, 'unlimited');
    const other = await submitAndStart(400);
    await whileStopped(device, async () => {
      await (await bench.inspector.getJob(id))?.promote();
      await untilJobs(worker, 2);
    });
    const jobs = await Promise.all([id, other].map((each) => bench.ended(each)));
    expect(jobs.map(({ status }) => status)).toEqual(['succeeded', 'succeeded']);
    expect(await attemptsMade(id)).toBe(2);
  });

  test('puts its jobs off and says why; once there is room they succeed', async () => {
    const { device } = await startReady();
    limitFileSize(device, 10);
    const id = randomUUID();
    const delayed = bench.event(id, 'delayed');
    await bench.submit(await testImage(24), {}, {}, id);
    await delayed;
    expect(await bench.queue.get(id)).toMatchObject({ status: 'queued' });
    expect(bench.log).toContainEqual(
      expect.objectContaining({
        msg: 'an attempt of the job failed',
        code: 'storage_unavailable',
        detail: expect.stringContaining('The folder of STORAGE is full (EFBIG)'),
      }),
    );
    const job = await bench.inspector.getJob(id);
    expect(job?.delay).toBe(30_000);
    limitFileSize(device, 'unlimited');
    await job?.promote();
    const ended = await bench.ended(id);
    expect(ended).toMatchObject({ status: 'succeeded' });
    expect(ended.result?.kept).toHaveLength(3);
  });

  test('fails a job in the end as storage_unavailable', async () => {
    const { device } = await startReady();
    limitFileSize(device, 10);
    const id = randomUUID();
    let delayed = bench.event(id, 'delayed');
    await bench.submit(await testImage(24), {}, {}, id);
    for (let attempt = 1; attempt < 3; attempt += 1) {
      await delayed;
      delayed = bench.event(id, 'delayed');
      await (await bench.inspector.getJob(id))?.promote();
    }
    expect(await bench.ended(id)).toMatchObject({
      status: 'failed',
      error: { code: 'storage_unavailable' },
    });
    expect(await attemptsMade(id)).toBe(3);
  });
});

describe('a device that cannot start', () => {
  test.each([
    ['no such provider', { DEVICES: 'cuda:0' }, 'device_unavailable', 'Set DEVICES=cpu'],
    ['one of two', { DEVICES: 'cpu,cuda:0' }, 'device_unavailable', 'cuda'],
    ['no such bundle', { MODEL: 'pisa-huge' }, 'invalid_bundle', 'pisa-huge'],
    ['no such folder', { MODELS_DIR: '/nowhere' }, 'invalid_bundle', '/nowhere'],
  ])('%s is an error that names the fix, and no job is taken', async (_name, env, code, word) => {
    const worker = await bench.startWorker(env);
    await expect(worker.ready).rejects.toMatchObject({
      code,
      message: expect.stringContaining(word),
    });
    const id = await bench.submit(await testImage(24));
    expect(await bench.queue.get(id)).toMatchObject({ status: 'queued' });
    await worker.close();
    expect(devicesOf(process.pid)).toEqual([]);
    expect(await bench.queue.get(id)).toMatchObject({ status: 'queued' });
    expect(await bench.queue.workers()).toEqual([]);
  });

  test('is told of once in the log, with what ONNX Runtime wrote to stderr alone', async () => {
    const missing = 'libonnxruntime_providers_shared.so: cannot open shared object file';
    const worker = await bench.startWorker({ DEVICES: 'cuda:0' });
    await expect(worker.ready).rejects.toThrow(missing);
    expect(bench.log.filter(({ level }) => level === 50)).toEqual([
      expect.objectContaining({
        msg: 'the device cannot start',
        device: 'cuda:0',
        code: 'device_unavailable',
        detail: expect.stringContaining(missing),
      }),
    ]);
  });

  test('is warned of when nobody knows its memory, which its tiles follow', async () => {
    const worker = await bench.startWorker({ DEVICES: 'cuda:99' });
    await expect(worker.ready).rejects.toThrow();
    expect(bench.log).toContainEqual(
      expect.objectContaining({
        level: 40,
        device: 'cuda:99',
        msg: expect.stringContaining('DEVICE_MEMORY_GIGABYTES'),
      }),
    );
  });

  test('for want of time is an error that names the setting', async () => {
    const config = { ...workerConfig(), DEVICE_START_SECONDS: 0.01 };
    const worker = await bench.startWorker({}, { config });
    await expect(worker.ready).rejects.toMatchObject({
      code: 'device_unavailable',
      message: expect.stringContaining('DEVICE_START_SECONDS'),
    });
  });
});

describe('a supervisor', () => {
  test('that is killed in mid-job leaves no orphan, and another worker ends the job', async () => {
    const first = await startWorkerProcess(bench);
    expect(first.devices).toHaveLength(1);
    const id = await submitAndStart(400);
    await first.kill('SIGKILL');
    await startReady();
    expect(await bench.ended(id)).toMatchObject({ status: 'succeeded' });
    expect(await bench.store.get(outputKey(id))).toBeDefined();
    await Promise.all(first.devices.map(untilGone));
  });

  test.each([
    ['five times does not make its job fail', 4, 'succeeded'],
    ['a sixth time with the same job in hand', 5, 'failed'],
  ])('that dies %s', async (_name, deaths, status) => {
    const id = await bench.submit(await testImage(24));
    const dying = new Worker(upscaleQueueName, null, {
      connection: redisOptions(bench.redis.url, 'consumer'),
    });
    await dying.getNextJob('the token of one that dies');
    await dying.close();
    // As if it had happened so often before, and the lock of the last one had expired.
    await bench.redis.client.hset(`bull:upscale:${id}`, 'stc', deaths);
    await bench.redis.client.del(`bull:upscale:${id}:lock`);
    await startReady();
    expect(await bench.ended(id)).toMatchObject({
      status,
      ...(status === 'failed' && { error: { code: 'device_lost' } }),
    });
  });

  test('that is told to stop lets its jobs finish within the grace', async () => {
    const { worker, device } = await startReady({ SHUTDOWN_GRACE_SECONDS: '60' });
    const id = await submitAndStart(200);
    const waiting = await bench.submit(await testImage(200), {}, {});
    const third = await bench.submit(await testImage(200));
    await worker.close();
    expect(await bench.queue.get(id)).toMatchObject({ status: 'succeeded' });
    expect((await bench.queue.get(waiting))?.status).not.toBe('failed');
    expect(await bench.queue.get(third)).toMatchObject({ status: 'queued' });
    expect(isAlive(device)).toBe(false);
    expect(await bench.queue.workers()).toEqual([]);
  });

  test('that is told to stop tidies up after its last job before the store is closed', async () => {
    const { worker } = await startReady({ KEEP_MAX_MEGABYTES: '0' });
    let tidyUp: () => void = () => {};
    const queueClosed = new Promise<void>((resolve) => {
      tidyUp = resolve;
    });
    const steps: string[] = [];
    const remove = FolderStore.prototype.delete;
    vi.spyOn(FolderStore.prototype, 'delete').mockImplementation(async function (
      this: FolderStore,
      key,
    ) {
      await queueClosed;
      await remove.call(this, key);
      steps.push(key);
    });
    vi.spyOn(FolderStore.prototype, 'close').mockImplementation(async () => {
      steps.push('closed');
    });
    const close = Worker.prototype.close;
    vi.spyOn(Worker.prototype, 'close').mockImplementation(async function (this: Worker, force) {
      await close.call(this, force);
      setImmediate(tidyUp);
    });
    const id = await bench.submit(await testImage(24));
    await bench.ended(id);
    await worker.close();
    expect(steps).toContain(inputKey(id));
    expect(steps.indexOf('closed')).toBe(steps.length - 1);
  });

  test('that is told to stop hands back what takes longer, and no attempt is lost', async () => {
    const { worker, device } = await startReady({ SHUTDOWN_GRACE_SECONDS: '1' });
    const handedBack = await attemptsLost('handed_back');
    const id = await submitAndStart(400);
    await whileStopped(device, () => worker.close());
    expect(await bench.queue.get(id)).toMatchObject({ status: 'queued', queuePosition: 0 });
    expect(await attemptsLost('handed_back')).toBe(handedBack + 1);
    expect(await attemptsMade(id)).toBe(0);
    expect(isAlive(device)).toBe(false);
    await startReady();
    expect(await bench.ended(id)).toMatchObject({ status: 'succeeded' });
    expect(await attemptsMade(id)).toBe(1);
  });

  test('that gets SIGTERM in mid-job hands back, leaves no orphan and exits in order', async () => {
    const first = await startWorkerProcess(bench, { SHUTDOWN_GRACE_SECONDS: '1' });
    const id = await submitAndStart(400);
    const [device = 0] = first.devices;
    expect(await whileStopped(device, () => first.kill('SIGTERM'))).toBe(0);
    expect(await bench.queue.get(id)).toMatchObject({ status: 'queued' });
    expect(first.devices.map(isAlive)).toEqual([false]);
    expect(await bench.queue.workers()).toEqual([]);
    await startReady();
    expect(await bench.ended(id)).toMatchObject({ status: 'succeeded' });
    expect(await attemptsMade(id)).toBe(1);
  });

  test.each([
    ['is told so by the next renewal', { lockMs: 2000, stalledCheckMs: 5000 }],
    ['is given the same job again', { lockMs: 30_000, stalledCheckMs: 500 }],
  ])('that lost a lock and %s stops, and the job ends once', async (_name, times) => {
    const { device } = await startReady({}, { times: { ...testTimes, ...times } });
    const before = await attemptsLost('lock_lost');
    const id = await submitAndStart(400);
    await whileStopped(device, async () => {
      const lost = bench.logged(id, 'the lock of the job was lost');
      // As after a long absence of Redis: the lock has expired and was not renewed in time.
      await bench.redis.client.del(`bull:upscale:${id}:lock`);
      await lost;
    });
    expect(await bench.ended(id)).toMatchObject({ status: 'succeeded' });
    expect(await attemptsLost('lock_lost')).toBe(before + 1);
    expect(devicesOf(process.pid)).toEqual([device]);
    expect(await bench.redis.client.llen('bull:upscale:active')).toBe(0);
  });

  test('ignores signals of the terminal in its device, which only obeys its parent', async () => {
    const { device } = await startReady();
    const id = await submitAndStart(200);
    process.kill(device, 'SIGINT');
    process.kill(device, 'SIGTERM');
    expect(await bench.ended(id)).toMatchObject({ status: 'succeeded' });
    expect(await attemptsMade(id)).toBe(1);
    expect(devicesOf(process.pid)).toEqual([device]);
  });
});

describe('Redis', () => {
  test('that restarts in mid-job loses no job', async () => {
    await startReady();
    const ids = [await submitAndStart(300), await bench.submit(await testImage(100))];
    await bench.redis.kill();
    await bench.redis.restart();
    await bench.queue.ready(10_000);
    for (const id of ids) expect(await bench.ended(id)).toMatchObject({ status: 'succeeded' });
  });

  test('that is away does not hold up a shutdown', async () => {
    const { worker, device } = await startReady({ SHUTDOWN_GRACE_SECONDS: '1' });
    await submitAndStart(800);
    await bench.redis.kill();
    await worker.close();
    expect(isAlive(device)).toBe(false);
    await bench.redis.restart();
  });
});
