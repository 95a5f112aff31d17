/**
 * A queue, a store and workers on a real Redis, with real device processes that run the identity bundle. For
 * the integration tests of the worker.
 */
import { randomUUID } from 'node:crypto';
import path from 'node:path';
import { QueueEvents } from 'bullmq';
import pino from 'pino';
import sharp from 'sharp';
import { type Config, loadConfig } from '../../src/config.ts';
import { inputKey, type UpscaleJobData, upscaleQueueName } from '../../src/jobs/job.ts';
import type { JobSnapshot } from '../../src/jobs/job-snapshot.ts';
import { resolveParams, type UpscaleQuery } from '../../src/jobs/params.ts';
import { createUpscaleQueue, type UpscaleQueue } from '../../src/jobs/queue.ts';
import { redisOptions } from '../../src/jobs/redis.ts';
import type { ObjectStore } from '../../src/storage/object-store.ts';
import { openStore, type StoreLocation } from '../../src/storage/open-store.ts';
import {
  type RunningWorker,
  startWorker,
  type WorkerOptions,
} from '../../src/worker/start-worker.ts';
import { type Build, buildService, root } from './build.ts';
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
  /** Every line that the workers logged, as objects. */
  readonly log: Record<string, unknown>[];
  startWorker(
    env?: Record<string, string>,
    options?: Partial<WorkerOptions>,
  ): Promise<RunningWorker>;
  /** Submits and returns the job's id. */
  submit(image: Uint8Array, query?: UpscaleQuery, data?: Partial<UpscaleJobData>): Promise<string>;
  /** The job when it has ended. */
  ended(id: string): Promise<JobSnapshot>;
  /** Resolves at the next event of that name for the job. Call it before what causes the event. */
  event(id: string, name: 'active' | 'progress' | 'waiting' | 'delayed'): Promise<void>;
  stop(): Promise<void>;
}

export function workerConfig(env: Record<string, string> = {}): Config {
  return loadConfig({
    MODELS_DIR: path.join(root, 'test/fixtures/bundles'),
    MODEL: 'identity',
    DEVICE_THREADS: '1',
    ...env,
  });
}

export async function startWorkerBench(): Promise<WorkerBench> {
  const [redis, build] = await Promise.all([startRedis(), buildService()]);
  const storeLocation: StoreLocation = {
    kind: 'folder',
    folder: path.join(redis.folder, 'objects'),
  };
  const store = openStore(storeLocation, { role: 'producer', sweep: false });
  const queue = createUpscaleQueue({ redisUrl: redis.url, store, resultTtlSeconds: 3600 });
  await queue.ready(10_000);
  const events = new QueueEvents(upscaleQueueName, {
    connection: redisOptions(redis.url, 'consumer'),
  });
  events.on('error', () => {});
  await events.waitUntilReady();
  const log: Record<string, unknown>[] = [];
  const logger = pino(
    { level: 'debug' },
    { write: (line: string) => log.push(JSON.parse(line) as Record<string, unknown>) },
  );
  const workers: RunningWorker[] = [];

  return {
    redis,
    queue,
    store,
    storeLocation,
    build,
    events,
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
    submit: async (image, query = {}, data = {}) => {
      const id = randomUUID();
      await queue.submit(id, image, { ...jobData(id, image, query), ...data });
      return id;
    },
    ended: async (id) => {
      const job = await queue.waitFor(id, 120_000);
      if (!job?.completedAt) throw new Error(`The job did not end: ${JSON.stringify(job)}`);
      return job;
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
    stop: async () => {
      await Promise.all(workers.map((worker) => worker.close()));
      await events.close();
      await queue.close();
      await store.close();
      await redis.stop();
      await build.remove();
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

/** True while a process of this id runs (a zombie does not). */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
