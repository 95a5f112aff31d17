/** What the metrics and alerts need to know of the queues, the workers and Redis, read in one go. */
import type { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import type { JobPriority, UpscaleJobData, UpscaleJobResult } from './job.ts';
import { sumKept } from './kept-objects.ts';
import type { PutOffDeliveries } from './put-off-deliveries.ts';
import type { DeliveryJob, DeliveryQueue } from './webhook.ts';
import { isReady, listWorkers } from './worker-registry.ts';

export interface QueueCounts {
  /** Waiting, or delayed before a retry. */
  queued: number;
  processing: number;
}

export interface QueueObservation extends QueueCounts {
  /**
   * For how long the next job of each priority has waited, or one that no worker with its model has taken, in
   * milliseconds; 0 when none waits.
   */
  oldestWaitMs: Record<JobPriority, number>;
  /** Jobs in process for longer than their time limit and `stuckMarginMs`. */
  stuck: number;
  webhooks: {
    /** Of ended jobs, not delivered yet. */
    pending: number;
    /**
     * For how long the next event has been due, or the one that has waited for a slot of its host for longest: since
     * the end of its job or the end of the wait after a failed attempt. 0 when none is due.
     */
    oldestDueMs: number;
  };
  /** Of all that is kept for other dials. */
  keptBytes: number;
  /** Live workers: `ready` have a device that takes jobs. */
  workers: { ready: number; notReady: number };
  /** Undefined when Redis does not let us look (INFO is not for everyone on some managed ones). */
  redis: RedisObservation | undefined;
}

interface RedisObservation {
  aofEnabled: boolean;
  aofLastWriteOk: boolean;
  maxmemoryPolicy: string;
  usedBytes: number;
  /** 0: no limit. */
  maxBytes: number;
}

/** The limit counts from when a device has the job: BullMQ counts from when a worker has taken it. */
const stuckMarginMs = 60_000;
/** The oldest come first, and one alone is worth an alert: no need to read more at a scrape. */
const mostActiveJobs = 200;
/** In no order of age: with more, the oldest may be missed at one scrape and seen at the next. */
const mostDelayedJobs = 200;

type JobQueue = Queue<UpscaleJobData, UpscaleJobResult>;

/** Where all of it is read. */
export interface Observed {
  redis: Redis;
  jobs: JobQueue;
  deliveries: DeliveryQueue;
  putOff: PutOffDeliveries;
}

export async function observeQueue(observed: Observed): Promise<QueueObservation> {
  const { redis, jobs, deliveries } = observed;
  const now = Date.now();
  const [
    counts,
    [next],
    [nextBatch],
    delayed,
    active,
    pending,
    oldestDueMs,
    keptBytes,
    workers,
    redisState,
  ] = await Promise.all([
    countJobs(jobs),
    jobs.getWaiting(0, 0),
    // BullMQ's word for jobs with a number, which run after those without one: ours of priority `batch`.
    jobs.getPrioritized(0, 0),
    jobs.getDelayed(0, mostDelayedJobs - 1),
    jobs.getActive(0, mostActiveJobs - 1),
    deliveries.getJobCountByTypes('waiting', 'delayed', 'active'),
    oldestDueDelivery(observed, now),
    sumKept(redis),
    listWorkers(redis),
    observeRedis(redis).catch(() => undefined),
  ]);
  // Without an attempt so far: for want of a worker with its model (src/worker/absent-model.ts), not before a retry.
  const unserved = delayed.filter(({ attemptsMade }) => attemptsMade === 0);
  const oldestWait = (priority: JobPriority, nextOne: typeof next): number => {
    const others = unserved.filter(({ data }) => (data.priority ?? 'interactive') === priority);
    const waiting = nextOne ? [nextOne, ...others] : others;
    return Math.max(0, ...waiting.map(({ timestamp }) => now - timestamp));
  };
  const ready = workers.filter(isReady).length;
  return {
    ...counts,
    oldestWaitMs: {
      interactive: oldestWait('interactive', next),
      batch: oldestWait('batch', nextBatch),
    },
    stuck: active.filter(
      ({ processedOn = now, data }) => now - processedOn > data.timeoutMs + stuckMarginMs,
    ).length,
    webhooks: { pending, oldestDueMs },
    keptBytes,
    workers: { ready, notReady: workers.length - ready },
    redis: redisState,
  };
}

export async function countJobs(jobs: JobQueue): Promise<QueueCounts> {
  const counts = await jobs.getJobCounts('waiting', 'prioritized', 'delayed', 'active');
  const of = (state: string) => counts[state] ?? 0;
  return {
    queued: of('waiting') + of('prioritized') + of('delayed'),
    processing: of('active'),
  };
}

async function oldestDueDelivery(
  { jobs, deliveries, putOff }: Observed,
  now: number,
): Promise<number> {
  const [[waiting], oldest] = await Promise.all([
    deliveries.getWaiting(0, 0) as Promise<(DeliveryJob | undefined)[]>,
    putOff.oldest(deliveries),
  ]);
  const dueAt = [
    waiting ? ((await dueTime(jobs, waiting)) ?? now) : now,
    oldest ? ((await dueTime(jobs, oldest.delivery)) ?? oldest.since) : now,
  ];
  return Math.max(0, now - Math.min(...dueAt));
}

/** Its own timestamp is that of the request: it waited for its job first, or for its next attempt. */
async function dueTime(jobs: JobQueue, { id, data }: DeliveryJob): Promise<number | undefined> {
  const { lastFailure, ended } = data;
  return lastFailure?.nextAt ?? ended?.completedAt ?? (await jobs.getJob(id ?? ''))?.finishedOn;
}

/** INFO alone: CONFIG is closed to clients of most managed Redis. */
async function observeRedis(redis: Redis): Promise<RedisObservation | undefined> {
  const [persistence, memory] = await Promise.all([
    redis.info('persistence'),
    redis.info('memory'),
  ]);
  const fields = new Map(
    `${persistence}\r\n${memory}`
      .split('\r\n')
      .map((line) => line.split(':', 2) as [string, string | undefined]),
  );
  const policy = fields.get('maxmemory_policy');
  const aof = fields.get('aof_enabled');
  if (policy === undefined || aof === undefined) return undefined;
  return {
    aofEnabled: aof === '1',
    aofLastWriteOk: fields.get('aof_last_write_status') === 'ok',
    maxmemoryPolicy: policy,
    usedBytes: Number(fields.get('used_memory')),
    maxBytes: Number(fields.get('maxmemory')),
  };
}
