/**
 * Which workers are alive and which models they can run, as the api sees it. Every worker reports itself
 * under a key that expires, so that one killed at any moment vanishes by itself. Model summaries stay: with
 * no worker running (scaled to zero) the api can still name the models.
 */
import type { Redis } from 'ioredis';
import type { ColorFix } from './params.ts';

/** A report older than this is a worker that is gone. */
const reportTtlSeconds = 15;
export const reportIntervalMs = 5000;

/** A model that no worker has reported for this long is no longer listed. */
const modelMemoryMs = 30 * 86_400_000;

export type DeviceStatus = 'starting' | 'ready' | 'restarting' | 'failed' | 'stopped';

interface DeviceReport {
  /** As in DEVICES: cpu, webgpu, cuda:0. */
  name: string;
  status: DeviceStatus;
  /** Jobs in the device process. */
  jobs: number;
}

/** What `GET /models` tells of a bundle. */
export interface ModelSummary {
  name: string;
  version: string;
  /** Identifies the bundle: of its manifest, which has the hashes of its graphs. */
  sha256: string;
  license: string;
  source: string;
  description: string;
  /** What the model was trained for, and works at; any `scale` up to it is that, reduced. */
  scale: number;
  /** The colour fix that a job gets when it names none. */
  colorfix: ColorFix;
}

export interface WorkerReport {
  id: string;
  devices: DeviceReport[];
  models: ModelSummary[];
  /** Names of the bundles that it has, and that none of its devices could open. Absent before 0.8.0. */
  unopened?: string[];
  /** Jobs that the worker runs at the same time when all its devices are ready. */
  slots: number;
}

export interface ListedModel extends ModelSummary {
  /** True while a live worker offers the bundle: it has it, and has not found that it cannot be opened. */
  available: boolean;
}

const workersKey = 'pisa:workers';
const modelsKey = 'pisa:models';
const workerKey = (id: string) => `pisa:worker:${id}`;

/** Call every `reportIntervalMs`, and at once when a device changes its status. */
export async function reportWorker(redis: Redis, report: WorkerReport): Promise<void> {
  const seenAt = Date.now();
  const transaction = redis
    .multi()
    .sadd(workersKey, report.id)
    .set(workerKey(report.id), JSON.stringify(report), 'EX', reportTtlSeconds);
  for (const model of report.models) {
    const seen = JSON.stringify({ ...model, seenAt });
    // One whose devices warm up makes its models known: requests may name them. But where they are down for long, jobs
    // must not wait for ever (requireModel).
    if (isReady(report)) transaction.hset(modelsKey, model.name, seen);
    else transaction.hsetnx(modelsKey, model.name, seen);
  }
  await transaction.exec();
}

/** True: it has a device that takes jobs. */
export const isReady = ({ devices }: WorkerReport): boolean =>
  devices.some(({ status }) => status === 'ready');

/** A worker that ends in order says so, so that `/readyz` knows at once. */
export async function withdrawWorker(redis: Redis, id: string): Promise<void> {
  await redis.multi().srem(workersKey, id).del(workerKey(id)).exec();
}

/** The workers that are alive. */
export async function listWorkers(redis: Redis): Promise<WorkerReport[]> {
  const ids = await redis.smembers(workersKey);
  if (ids.length === 0) return [];
  const texts = await redis.mget(ids.map(workerKey));
  const gone = ids.filter((_, index) => texts[index] === null);
  if (gone.length > 0) await redis.srem(workersKey, ...gone);
  return texts.filter((text) => text !== null).map((text) => JSON.parse(text) as WorkerReport);
}

/** A bundle as it was reported last. */
export async function findModel(redis: Redis, name: string): Promise<ModelSummary | undefined> {
  const text = await redis.hget(modelsKey, name);
  return text === null ? undefined : (JSON.parse(text) as ModelSummary);
}

/**
 * Where a model is to be had.
 * @returns `available`: a live worker with a device that is up has it; `listed`: a live worker has it, which may warm up;
 *   `unopened`: one has it, and could not open it; `seenAt`: when one with a device that is up last said so or, before that, one first made it known, epoch ms, 0 for never
 */
export async function locateModel(
  redis: Redis,
  name: string,
): Promise<{ available: boolean; listed: boolean; unopened: boolean; seenAt: number }> {
  const [workers, text] = await Promise.all([listWorkers(redis), redis.hget(modelsKey, name)]);
  const owners = workers.filter(({ models }) => models.some((model) => model.name === name));
  const seenAt = text === null ? 0 : (JSON.parse(text) as { seenAt: number }).seenAt;
  const unopened = workers.some((worker) => worker.unopened?.includes(name));
  return { available: owners.some(isReady), listed: owners.length > 0, unopened, seenAt };
}

/** Every model known, by name, and whether a live worker has it. */
export async function listModels(redis: Redis): Promise<ListedModel[]> {
  const [workers, known] = await Promise.all([listWorkers(redis), redis.hgetall(modelsKey)]);
  const live = new Set(workers.flatMap((worker) => worker.models.map((model) => model.name)));
  const oldest = Date.now() - modelMemoryMs;
  return Object.values(known)
    .map((text) => JSON.parse(text) as ModelSummary & { seenAt: number })
    .filter(({ name, seenAt }) => live.has(name) || seenAt > oldest)
    .map(({ seenAt: _, ...model }) => ({ ...model, available: live.has(model.name) }))
    .sort((a, b) => a.name.localeCompare(b.name));
}
