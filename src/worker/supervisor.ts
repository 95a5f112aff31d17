/**
 * Holds the locks of the jobs and never runs a graph, so that its event loop is always free to renew them.
 * Takes jobs from BullMQ, gives each to a device, obeys cancel records, and says how it ended.
 */
import { WaitingError, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { fromFailureText } from '../errors.ts';
import { bullConnection } from '../jobs/bull-connection.ts';
import { cancelChannel, isCanceled } from '../jobs/cancellation.ts';
import { type UpscaleJobData, type UpscaleJobResult, upscaleQueueName } from '../jobs/job.ts';
import { canceledError, type UpscaleJob } from '../jobs/job-snapshot.ts';
import { connectRedis } from '../jobs/redis.ts';
import { metrics } from '../metrics.ts';
import type { ObjectStore } from '../storage/object-store.ts';
import { within } from '../waits.ts';
import { requireModel } from './absent-model.ts';
import { endAttempt, LockLost } from './attempt-end.ts';
import type { DevicePool } from './device-pool.ts';
import { EndedJobs } from './ended-jobs.ts';
import { HandBack } from './hand-back.ts';
import { jobFacts } from './job-facts.ts';
import { observeFailure, observeSuccess } from './observe-jobs.ts';
import { runOnDevice } from './run-on-device.ts';

export interface SupervisorOptions {
  redisUrl: string;
  redis: Redis;
  store: ObjectStore;
  pool: DevicePool;
  logger: Logger;
  locks: LockTimes;
  /** Bytes of all that is kept for other dials, see src/jobs/kept-objects.ts. */
  keepMaxBytes: number;
  /** For so long a worker with the model of a job may be on its way, see absent-model.ts. */
  modelArrivalMs: number;
  /** JOB_TIMEOUT_SECONDS, in milliseconds: the longest limit that a job can have. */
  jobTimeoutMs: number;
}

export interface LockTimes {
  /** A lock that is not renewed for this long is free: its worker died. */
  lockMs: number;
  /** How often a worker looks for such jobs. */
  stalledCheckMs: number;
}

interface Running {
  job: UpscaleJob;
  abort: AbortController;
  settled: Promise<unknown>;
}

/** Workers may die (a node that is drained, an out-of-memory kill) with the same job in hand this often. */
const maxStalledCount = 5;

export class Supervisor {
  readonly #options: SupervisorOptions;
  readonly #worker: Worker<UpscaleJobData, UpscaleJobResult>;
  readonly #subscriber: Redis;
  readonly #running = new Map<string, Running>();
  readonly #ended: EndedJobs;
  #started = false;
  #closing = false;

  constructor(options: SupervisorOptions) {
    const { redisUrl, locks, pool, logger } = options;
    this.#options = options;
    this.#ended = new EndedJobs(options);
    this.#worker = new Worker(
      upscaleQueueName,
      (job: UpscaleJob, token?: string) => this.#track(job, token ?? ''),
      {
        connection: bullConnection(redisUrl),
        autorun: false,
        concurrency: 1,
        lockDuration: locks.lockMs,
        stalledInterval: locks.stalledCheckMs,
        maxStalledCount,
        // Totals per minute for two weeks, in Redis: what an autoscaler or a dashboard may read.
        metrics: { maxDataPoints: 20_160 },
      },
    );
    const onError = (error: Error) => logger.warn({ err: error }, 'queue');
    this.#worker.on('error', onError);
    this.#worker.on('completed', (job, result) => this.#onCompleted(job, result));
    this.#worker.on('failed', (job, error) => this.#onFailed(job, error));
    this.#worker.on('lockRenewalFailed', (ids) => {
      for (const id of ids) this.#onLockLost(this.#running.get(id));
    });
    this.#subscriber = connectRedis(redisUrl, 'consumer', onError);
    // What was published while the connection was away is lost: look at the records.
    this.#subscriber.on('ready', () => {
      this.obeyCancelRecords().catch(onError);
    });
    this.#subscriber.on('message', (_channel, id) => this.#cancel(id));
    for (const device of pool.devices) device.on('status', () => this.#adapt());
    for (const reason of ['handed_back', 'model_absent', 'lock_lost', 'device_lost']) {
      metrics.jobAttemptsLost.inc({ reason }, 0);
    }
  }

  /** Starts to take jobs. Call when the devices are ready. */
  async start(): Promise<void> {
    await this.#subscriber.subscribe(cancelChannel);
    await this.#worker.waitUntilReady();
    this.#started = true;
    this.#worker.run().catch((error: unknown) => {
      this.#options.logger.error({ err: error }, 'the queue worker stopped');
    });
    this.#adapt();
  }

  /** Cancels running jobs whose cancel message was missed. Also called with every report to the registry. */
  async obeyCancelRecords(): Promise<void> {
    for (const id of this.#running.keys()) {
      if (await isCanceled(this.#options.redis, id)) this.#cancel(id);
    }
  }

  /** Takes no more jobs and waits for the running ones, at most `graceMs`. */
  async drain(graceMs: number): Promise<void> {
    this.#closing = true;
    await this.#worker.pause(true);
    await this.#settled(graceMs);
  }

  /**
   * Call after the devices have stopped, so that what was running is on its way back to the queue, and before Redis and
   * the store are closed, with which ended jobs are tidied up.
   */
  async close(timeLimitMs: number): Promise<void> {
    // With Redis away nothing can be handed back: the locks expire and another worker takes the jobs.
    const orderly = await this.#settled(timeLimitMs);
    this.#subscriber.disconnect();
    const closed = await within(this.#worker.close(!orderly), timeLimitMs);
    await Promise.all([
      within(this.#ended.tidied(), timeLimitMs),
      closed || within(this.#worker.disconnect(), timeLimitMs),
    ]);
  }

  #settled(timeLimitMs: number): Promise<boolean> {
    const all = [...this.#running.values()].map((running) => running.settled);
    return within(Promise.allSettled(all), timeLimitMs);
  }

  /** As many jobs at once as the devices can hold; none when none takes any. */
  #adapt(): void {
    if (!this.#started || this.#closing) return;
    const { slots } = this.#options.pool;
    if (slots === 0) {
      void this.#worker.pause(true);
      return;
    }
    this.#worker.concurrency = slots;
    if (this.#worker.isPaused()) void this.#worker.resume();
  }

  #track(job: UpscaleJob, token: string): Promise<UpscaleJobResult> {
    const id = job.id ?? '';
    const abort = new AbortController();
    const before = this.#running.get(id);
    const settled = this.#process(job, token, abort.signal, before).finally(() => {
      if (this.#running.get(id)?.abort === abort) this.#running.delete(id);
    });
    this.#running.set(id, { job, abort, settled });
    return settled;
  }

  /** One attempt. Its result, or what `endAttempt` makes of its end, tells BullMQ what becomes of the job. */
  async #process(
    job: UpscaleJob,
    token: string,
    signal: AbortSignal,
    before: Running | undefined,
  ): Promise<UpscaleJobResult> {
    const id = job.id ?? '';
    const { redis, pool, modelArrivalMs, logger } = this.#options;
    // Fetched while we stopped taking any, it may be one of those that we hand back: nothing of it is lost.
    if (this.#closing) {
      await job.moveToWait(token);
      throw new WaitingError();
    }
    try {
      if (before) await this.#endLostRun(before);
      if (await isCanceled(redis, id)) throw canceledError();
      const { models, unopened } = pool;
      await requireModel(job, { redis, models, unopened, arrivalMs: modelArrivalMs });
      const result = await runOnDevice(job, signal, { pool, logger });
      await this.#ended.noteKept(job, result);
      // Canceled while the result was being written: the cancel was answered first, so it holds.
      if (await isCanceled(redis, id)) throw canceledError();
      return result;
    } catch (error) {
      throw await endAttempt(error, job, token, logger);
    }
  }

  #cancel(id: string): void {
    this.#running.get(id)?.abort.abort(canceledError());
  }

  /** Another worker has the job now, or will: free the device. What this run wrote is the same result. */
  #onLockLost(running: Running | undefined): void {
    if (!running || running.abort.signal.aborted) return;
    this.#options.logger.warn(jobFacts(running.job), 'the lock of the job was lost');
    running.abort.abort(new LockLost());
  }

  /**
   * The job came back to us while we still ran it: its lock was lost, and we did not know. BullMQ keeps locks
   * by job id, so the end of the old run would stop the renewal of the new one: end it, then fetch afresh.
   */
  async #endLostRun(before: Running): Promise<never> {
    this.#onLockLost(before);
    await Promise.allSettled([before.settled]);
    throw new HandBack();
  }

  #onCompleted(job: UpscaleJob, result: UpscaleJobResult): void {
    observeSuccess(job, result);
    this.#options.logger.info(
      { ...jobFacts(job), device: result.device, totalMs: result.totalMs },
      'job succeeded',
    );
    this.#ended.tidySucceeded(job, result);
  }

  #onFailed(job: UpscaleJob | undefined, error: Error): void {
    if (!job) return;
    const { code } = fromFailureText(error.message);
    if (!job.finishedOn) {
      metrics.jobAttemptsLost.inc({ reason: code });
      return;
    }
    observeFailure(job, code, this.#options.jobTimeoutMs);
    this.#ended.tidyFailed(job.id ?? '');
  }
}
