/**
 * A queue, a store and workers on a real Redis, with real device processes that run the identity bundle. For
 * the integration tests of the worker.
 */
import { spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { EventEmitter, once } from 'node:events';
import path from 'node:path';
import { setTimeout as nextLook } from 'node:timers/promises';
import { Job, Queue, QueueEvents } from 'bullmq';
import type { Redis } from 'ioredis';
import pino from 'pino';
import sharp from 'sharp';
import { type Config, loadConfig } from '../../src/config.ts';
import { inputKey, type UpscaleJobData, upscaleQueueName } from '../../src/jobs/job.ts';
import type { JobSnapshot } from '../../src/jobs/job-snapshot.ts';
import { resolveParams, type UpscaleQuery } from '../../src/jobs/params.ts';
import { UpscaleQueue } from '../../src/jobs/queue.ts';
import { connectRedis } from '../../src/jobs/redis.ts';
import type { ObjectStore } from '../../src/storage/object-store.ts';
import { openStore, type StoreLocation } from '../../src/storage/open-store.ts';
import type { S3Location } from '../../src/storage/s3-clients.ts';
import { within } from '../../src/waits.ts';
import {
  type RunningWorker,
  startWorker,
  type WorkerOptions,
} from '../../src/worker/start-worker.ts';
import { type Build, root } from './build.ts';
import { devicesOf, isAlive } from './processes.ts';
import { startRedis, type TestRedis } from './redis.ts';

/** Short enough for a test, long enough for a busy machine. */
export const testTimes = {
  lockMs: 5000,
  stalledCheckMs: 1000,
  abortGraceMs: 20_000,
  restartDelayMs: 50,
};

export interface WorkerBench {
  readonly redis: TestRedis;
  readonly queue: UpscaleQueue;
  readonly store: ObjectStore;
  readonly storeLocation: StoreLocation;
  readonly build: Build;
  readonly events: QueueEvents;
  /** BullMQ's own view of the queue. */
  readonly inspector: Queue;
  /** Every line that the workers logged, as objects. */
  readonly log: Record<string, unknown>[];
  startWorker(
    env?: Record<string, string>,
    options?: Partial<WorkerOptions>,
  ): Promise<RunningWorker>;
  /** Submits and returns the job's id. */
  submit(
    image: Uint8Array,
    query?: UpscaleQuery,
    data?: Partial<UpscaleJobData>,
    id?: string,
  ): Promise<string>;
  /** The job when it has ended. */
  ended(id: string): Promise<JobSnapshot>;
  /** Resolves when the queue's own record says that the job has ended: after a cancel, that the worker is done. */
  finished(id: string): Promise<void>;
  /** Resolves at the next event of that name for the job. Call it before what causes the event. */
  event(id: string, name: 'active' | 'progress' | 'waiting' | 'delayed'): Promise<void>;
  /** Resolves in the turn in which a worker logs this of the job: sooner than any event of the queue. */
  logged(id: string, message: string): Promise<void>;
  stop(): Promise<void>;
}

export function workerConfig(env: Record<string, string> = {}): Config {
  return loadConfig({
    MODELS_DIR: path.join(root, 'test/fixtures/bundles'),
    MODEL: 'identity',
    // Tests send the same small images again and again, and mean it.
    RESULT_CACHE: 'off',
    DEVICE_THREADS: '1',
    ...env,
  });
}

/** @param build stays the caller's */
export async function startWorkerBench(
  build: Build,
  storage: 'folder' | 'redis' | S3Location = 'folder',
): Promise<WorkerBench> {
  const redis = await startRedis();
  const storeLocation: StoreLocation =
    storage === 'redis'
      ? { kind: 'redis', redisUrl: redis.url }
      : storage === 'folder'
        ? { kind: 'folder', folder: path.join(redis.folder, 'objects') }
        : { kind: 's3', redisUrl: redis.url, s3: storage };
  const store = openStore(storeLocation, { role: 'producer', sweep: false });
  const queue = new UpscaleQueue({ redisUrl: redis.url, store, resultTtlSeconds: 3600 });
  await queue.ready(10_000);
  const connections = [connectRedis(redis.url, 'consumer'), connectRedis(redis.url, 'consumer')];
  const [forEvents, forInspector] = connections as [Redis, Redis];
  const events = new QueueEvents(upscaleQueueName, { connection: forEvents });
  events.on('error', () => {});
  await events.waitUntilReady();
  const inspector = new Queue(upscaleQueueName, { connection: forInspector });
  inspector.on('error', () => {});
  const log: Record<string, unknown>[] = [];
  const lines = new EventEmitter<{ line: [Record<string, unknown>] }>();
  lines.on('line', (line) => log.push(line));
  const write = (line: string) => lines.emit('line', JSON.parse(line) as Record<string, unknown>);
  const logger = pino({ level: 'debug' }, { write });
  const workers: RunningWorker[] = [];

  return {
    redis,
    queue,
    store,
    storeLocation,
    build,
    events,
    inspector,
    log,
    startWorker: async (env = {}, options = {}) => {
      const worker = await startWorker({
        config: workerConfig(env),
        redisUrl: redis.url,
        store: storeLocation,
        logger,
        times: testTimes,
        deviceProgram: build.deviceProgram,
        ...options,
      });
      workers.push(worker);
      return worker;
    },
    submit: async (image, query = {}, data = {}, id = randomUUID()) => {
      await queue.submit(id, { image }, { ...jobData(id, image, query), ...data });
      return id;
    },
    ended: async (id) => {
      const accepted = await queue.get(id);
      const job = accepted && (await queue.waitFor(accepted, 120_000));
      if (!job?.completedAt) throw new Error(`The job did not end: ${JSON.stringify(job)}`);
      return job;
    },
    finished: async (id) => {
      const job = await Job.fromId(inspector, id);
      await job?.waitUntilFinished(events, 120_000).catch(() => {});
    },
    event: (id, name) =>
      new Promise((resolve) => {
        const listener = ({ jobId }: { jobId: string }) => {
          if (jobId !== id) return;
          events.off(name, listener);
          resolve();
        };
        events.on(name, listener);
      }),
    logged: (id, message) =>
      new Promise((resolve) => {
        const listener = ({ job, msg }: Record<string, unknown>) => {
          if (job !== id || msg !== message) return;
          lines.off('line', listener);
          resolve();
        };
        lines.on('line', listener);
      }),
    stop: async () => {
      await Promise.all(workers.map((worker) => worker.close()));
      await Promise.all([within(events.close(), 1000), within(inspector.close(), 1000)]);
      for (const connection of connections) connection.disconnect();
      await queue.close();
      await store.close();
      await redis.stop();
    },
  };
}

export function jobData(id: string, image: Uint8Array, query: UpscaleQuery = {}): UpscaleJobData {
  return {
    params: resolveParams(query, 'identity'),
    input: {
      key: inputKey(id),
      width: 1,
      height: 1,
      bytes: image.byteLength,
      content_type: 'image/png',
    },
    ttlSeconds: 3600,
    timeoutMs: 120_000,
    requestId: id,
  };
}

/** A photo-like PNG. With the identity bundle's small tiles, 24 px are done at once and 400 px take a while. */
export async function testImage(edge: number): Promise<Buffer> {
  const pixels = Buffer.alloc(edge * edge * 3);
  for (let i = 0; i < pixels.length; i += 1) pixels[i] = (i * 31 + (i % 7) * 40) % 256;
  return sharp(pixels, { raw: { width: edge, height: edge, channels: 3 } })
    .png()
    .toBuffer();
}

/** Resolves when the process has ended; for one that is not our child, so that no event tells. */
export async function untilGone(pid: number): Promise<void> {
  while (isAlive(pid)) await nextLook(20);
}

export interface WorkerProcess {
  readonly pid: number;
  readonly devices: number[];
  /** Resolves to its exit code when it has ended; null when the signal itself ended it. */
  kill(signal: NodeJS.Signals): Promise<number | null>;
}

/** A worker in a process of its own, which a test may kill. Resolves when it is ready. */
export async function startWorkerProcess(
  bench: WorkerBench,
  env: Record<string, string> = {},
): Promise<WorkerProcess> {
  const settings = {
    config: workerConfig(env),
    redisUrl: bench.redis.url,
    store: bench.storeLocation,
    times: testTimes,
  };
  const program = path.join(root, 'test/support/worker-process.mjs');
  const child = spawn(process.execPath, [program, bench.build.folder, JSON.stringify(settings)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const exited = once(child, 'exit');
  await Promise.race([
    once(child.stdout, 'data'),
    exited.then(() => Promise.reject(new Error('The worker process ended at its start.'))),
  ]);
  const { pid } = child;
  // 0 would be the test run's own process group to `process.kill`.
  if (pid === undefined) throw new Error('The worker process has no process id.');
  return {
    pid,
    devices: devicesOf(pid),
    kill: async (signal) => {
      child.kill(signal);
      const [code] = (await exited) as [number | null];
      return code;
    },
  };
}
