/**
 * The upscale queue as the api uses it: submit, look, wait, cancel, delete. BullMQ is the truth about a job, unless
 * there is a record that overrules it, of its cancel (cancellation.ts) or of a result that was there already
 * (stored-results.ts); the object store holds its images.
 */
import type { Redis } from 'ioredis';
import type { ObjectStore } from '../storage/object-store.ts';
import { within } from '../waits.ts';
import { BullQueue } from './bull-queue.ts';
import { ClientLimits } from './client-limits.ts';
import type { IdempotencyClaim } from './idempotency.ts';
import { IdempotencyClaims } from './idempotency-claims.ts';
import type { UpscaleJobData } from './job.ts';
import { JobEvents } from './job-events.ts';
import { JobLookup } from './job-lookup.ts';
import { JobRemoval, type RemoveOutcome } from './job-removal.ts';
import type { JobSnapshot } from './job-snapshot.ts';
import { JobSubmission, type SubmitOptions } from './job-submission.ts';
import type { JobUploads } from './job-uploads.ts';
import { JobWatches, type WatchListener } from './job-watches.ts';
import { PutOffDeliveries } from './put-off-deliveries.ts';
import {
  countJobs,
  observeQueue,
  type QueueCounts,
  type QueueObservation,
} from './queue-observation.ts';
import { QueueReadiness } from './queue-readiness.ts';
import { connectRedis } from './redis.ts';
import { orUnavailable } from './redis-faults.ts';
import { ResultReuse, type ReuseOptions } from './result-reuse.ts';
import { type ListedModel, listModels, listWorkers, type WorkerReport } from './worker-registry.ts';

export interface UpscaleQueueOptions {
  redisUrl: string;
  store: ObjectStore;
  /** The longest life of a result. Job records outlive it, so that 410 can be told from 404. */
  resultTtlSeconds: number;
  /** Told of connection errors, for the log. */
  onError?: (error: Error) => void;
}

/** For so long after its result has expired a job is still known, and answers 410. */
const recordMarginSeconds = 86_400;
/** With Redis away there is nothing to end in order. */
const closeLimitMs = 1000;

/**
 * Every method but `waitFor` and `watch` throws `redis_unavailable` when Redis is away. The parts behind it fail with
 * Redis's own errors, of which this page makes that.
 */
export class UpscaleQueue {
  /** What each client may do. */
  readonly limits: ClientLimits;
  /** Webhooks that wait for a slot. */
  readonly putOff: PutOffDeliveries;
  readonly #redis: Redis;
  readonly #bull: BullQueue;
  readonly #readiness: QueueReadiness;
  readonly #events: JobEvents;
  readonly #lookup: JobLookup;
  readonly #watches: JobWatches;
  readonly #submission: JobSubmission;
  readonly #reuse: ResultReuse;
  readonly #claims: IdempotencyClaims;
  readonly #removal: JobRemoval;

  constructor({ redisUrl, store, resultTtlSeconds, onError = () => {} }: UpscaleQueueOptions) {
    const recordTtlSeconds = resultTtlSeconds + recordMarginSeconds;
    const redis = connectRedis(redisUrl, 'producer', onError);
    const limits = new ClientLimits(redis);
    const bull = new BullQueue(redis, recordTtlSeconds, onError);
    const lookup = new JobLookup(redis, bull);
    const events = new JobEvents(redisUrl, onError);
    const reuse = new ResultReuse({ redis, bull, lookup, store, recordTtlSeconds });
    this.limits = limits;
    this.putOff = new PutOffDeliveries(redis);
    this.#redis = redis;
    this.#bull = bull;
    this.#readiness = new QueueReadiness(redis, bull);
    this.#events = events;
    this.#lookup = lookup;
    this.#watches = new JobWatches({
      events,
      look: (id) => this.get(id),
      order: () => orUnavailable(() => lookup.order()),
    });
    this.#submission = new JobSubmission({ bull, lookup, limits, store });
    this.#reuse = reuse;
    this.#claims = new IdempotencyClaims({ redis, lookup, reuse });
    this.#removal = new JobRemoval({
      redis,
      bull,
      lookup,
      store,
      recordTtlSeconds,
      onRemoved: (id) => events.notify(id),
    });
  }

  /** Resolves when connected; rejects with `redis_unavailable` after the time limit. */
  async ready(timeoutMs: number): Promise<void> {
    return orUnavailable(() => this.#readiness.ready(timeoutMs));
  }

  /**
   * Resolves once Redis has been seen to let us in as one that takes jobs, and from then on whatever happens to it. One
   * that is full does: for every instance alike, and deletions, which make room in its memory, come through this one too.
   * @throws redis_unavailable while Redis is away, a replica or closed to its user
   */
  async accepts(): Promise<void> {
    return orUnavailable(() => this.#readiness.accepts());
  }

  /**
   * Accepts a job: stores the uploads, then enqueues. When it resolves the job is never lost.
   * @param id a UUID, the public job id
   * @throws too_many_jobs | storage_unavailable
   */
  async submit(
    id: string,
    uploads: JobUploads,
    data: UpscaleJobData,
    options: SubmitOptions = {},
  ): Promise<JobSnapshot> {
    return orUnavailable(() => this.#submission.submit(id, uploads, data, options));
  }

  /** True when a request with this key has come before, and its job is the answer to the next one. */
  async isClaimed(claim: Pick<IdempotencyClaim, 'client' | 'key'>): Promise<boolean> {
    return orUnavailable(() => this.#claims.isClaimed(claim));
  }

  /** The job of a request with this key that came before in the same words. */
  async findClaimed(
    claim: Omit<Required<IdempotencyClaim>, 'fingerprint'>,
  ): Promise<JobSnapshot | undefined> {
    return orUnavailable(() => this.#claims.find(claim));
  }

  /**
   * Binds an idempotency key to a job id.
   * @param newId for the job if the key is new, or its job has failed for what may have passed
   * @param canReplace false: one that has failed stays the answer all the same
   * @returns the id that the job has or must get, and the job if there is one
   * @throws idempotency_key_reused when the key is bound to another request
   */
  async claim(
    claim: IdempotencyClaim,
    newId: string,
    ttlSeconds: number,
    canReplace = true,
  ): Promise<{ id: string; job?: JobSnapshot }> {
    return orUnavailable(() => this.#claims.claim(claim, newId, ttlSeconds, canReplace));
  }

  /**
   * Answers from a stored result: makes a job that has succeeded already, with a copy of the image. It keeps the
   * uploads as any other job does: the one that has made the image may be deleted, or end, before it.
   * @param data with its `contentKey`
   * @returns undefined when there is no such result, or no room for a copy of it
   */
  async reuse(
    id: string,
    uploads: JobUploads,
    data: UpscaleJobData,
    options: ReuseOptions,
  ): Promise<JobSnapshot | undefined> {
    return orUnavailable(() => this.#reuse.reuse(id, uploads, data, options));
  }

  /** The job as it stands, or undefined when it is unknown. */
  async get(id: string): Promise<JobSnapshot | undefined> {
    return orUnavailable(() => this.#lookup.get(id));
  }

  /**
   * Waits until the job ends, `timeoutMs` have passed or `signal` aborts, whichever is first. A Redis that is away ends
   * no wait: the job was accepted, and it will be back.
   * @param accepted the job as it was seen last
   * @returns the job as it then stands, as far as is known; undefined when it is unknown (deleted, or Redis lost it)
   */
  waitFor(
    accepted: JobSnapshot,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<JobSnapshot | undefined> {
    return this.#watches.waitFor(accepted, timeoutMs, signal);
  }

  /**
   * Tells the listener of every change of a job until it is stopped, and of the job as it stands at once. All
   * watchers of this process share one event stream, one look at each change of a job, and one look at the
   * queue's order.
   * @returns a function that stops it
   */
  watch(id: string, listener: WatchListener): () => void {
    return this.#watches.watch(id, listener);
  }

  /** Cancels a job that has not ended (it reads as canceled at once), else deletes its images and record. */
  async remove(id: string): Promise<RemoveOutcome | undefined> {
    return orUnavailable(() => this.#removal.remove(id));
  }

  /** Removes a job that has ended, with its images, so that its id is free; never one that was entered since. */
  async removeEnded(ended: JobSnapshot): Promise<void> {
    return orUnavailable(() => this.#removal.removeEnded(ended));
  }

  async counts(): Promise<QueueCounts> {
    return orUnavailable(() => countJobs(this.#bull.get()));
  }

  /** What the metrics tell of queues, workers and Redis. */
  async observe(): Promise<QueueObservation> {
    return orUnavailable(() =>
      observeQueue({
        redis: this.#redis,
        jobs: this.#bull.get(),
        deliveries: this.#bull.deliveries(),
        putOff: this.putOff,
      }),
    );
  }

  async workers(): Promise<WorkerReport[]> {
    return orUnavailable(() => listWorkers(this.#redis));
  }

  async models(): Promise<ListedModel[]> {
    return orUnavailable(() => listModels(this.#redis));
  }

  async close(): Promise<void> {
    this.#watches.close();
    await Promise.allSettled([this.#events.close(), within(this.#bull.close(), closeLimitMs)]);
    this.#redis.disconnect();
  }
}
