/**
 * The upscale queue as the api uses it: submit, look, wait, cancel, delete. BullMQ is the truth about a job, unless
 * there is a record that overrules it, of its cancel (cancellation.ts) or of a result that was there already
 * (stored-results.ts); the object store holds its images.
 */
import { setTimeout as pause } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import { deleteObjects, longestSweepMs, type ObjectStore } from '../storage/object-store.ts';
import { startSpan } from '../tracing/tracing.ts';
import { within } from '../waits.ts';
import { BullQueue } from './bull-queue.ts';
import { ClientLimits } from './client-limits.ts';
import { bindKey, type IdempotencyClaim, readBinding, rebindKey } from './idempotency.ts';
import {
  inputTtlSeconds,
  type KeptObject,
  outputKey,
  sideKeys,
  type UpscaleJobData,
  upscaleQueueName,
} from './job.ts';
import { JobEvents } from './job-events.ts';
import { JobLookup } from './job-lookup.ts';
import { JobRemoval, type RemoveOutcome } from './job-removal.ts';
import { isFinal, type JobSnapshot, snapshotOfReuseRecord } from './job-snapshot.ts';
import { JobWatches, type WatchListener } from './job-watches.ts';
import { forgetKept, keepObjects } from './kept-objects.ts';
import { PutOffDeliveries } from './put-off-deliveries.ts';
import {
  countJobs,
  observeQueue,
  type QueueCounts,
  type QueueObservation,
} from './queue-observation.ts';
import { checkRedis, connectRedis, isFull, orUnavailable, tryOut } from './redis.ts';
import {
  admitReuse,
  copyOf,
  forgetReuse,
  type ReuseBounds,
  recordOf,
  reuseRecordTtl,
} from './reused-bytes.ts';
import { findResult, reuseRecords } from './stored-results.ts';
import { newDelivery } from './webhook.ts';
import {
  findModel,
  type ListedModel,
  listModels,
  listWorkers,
  type WorkerReport,
} from './worker-registry.ts';

export interface UpscaleQueueOptions {
  redisUrl: string;
  store: ObjectStore;
  /** The longest life of a result. Job records outlive it, so that 410 can be told from 404. */
  resultTtlSeconds: number;
  /** Told of connection errors, for the log. */
  onError?: (error: Error) => void;
}

/** What comes with a job; where each goes, its data says. */
export interface JobUploads {
  /** Absent when the job has a source. */
  image?: Uint8Array;
  maps?: { pix?: Uint8Array; sem?: Uint8Array };
}

interface SubmitOptions {
  /** Somebody else may be submitting the same job under the same id. */
  mayExist?: boolean;
  /** Counts the job among those of a client that have not ended. `concurrentJobs` 0: no limit. */
  within?: { client: string; concurrentJobs: number };
}

export interface ReuseOptions extends ReuseBounds {
  /** Of all that is kept for other dials. 0: nothing is. */
  keepMaxBytes: number;
  /** For so long an Idempotency-Key is bound to the job. 0: none is. */
  keySeconds: number;
}

const pingAgainMs = 100;
/** For so long after its result has expired a job is still known, and answers 410. */
const recordMarginSeconds = 86_400;
/** BullMQ takes jobs without a priority first. */
const batchPriority = 10;
/** With Redis away there is nothing to end in order. */
const closeLimitMs = 1000;

/** True when it failed for what may have passed since. */
const mayBeTriedAgain = (job: JobSnapshot | undefined): boolean =>
  job?.status === 'failed' && job.error?.retryable === true;

/** Every method but `waitFor` and `watch` throws `redis_unavailable` when Redis is away. */
export class UpscaleQueue {
  /** What each client may do. */
  readonly limits: ClientLimits;
  /** Webhooks that wait for a slot. */
  readonly putOff: PutOffDeliveries;
  readonly #redis: Redis;
  readonly #bull: BullQueue;
  readonly #lookup: JobLookup;
  readonly #removal: JobRemoval;
  readonly #events: JobEvents;
  readonly #watches: JobWatches;
  readonly #store: ObjectStore;
  readonly #recordTtlSeconds: number;
  #hasAccepted = false;

  constructor({ redisUrl, store, resultTtlSeconds, onError = () => {} }: UpscaleQueueOptions) {
    this.#store = store;
    this.#recordTtlSeconds = resultTtlSeconds + recordMarginSeconds;
    this.#redis = connectRedis(redisUrl, 'producer', onError);
    this.limits = new ClientLimits(this.#redis);
    this.putOff = new PutOffDeliveries(this.#redis);
    this.#bull = new BullQueue(this.#redis, this.#recordTtlSeconds, onError);
    this.#lookup = new JobLookup(this.#redis, this.#bull);
    this.#events = new JobEvents(redisUrl, onError);
    this.#watches = new JobWatches({
      events: this.#events,
      look: (id) => this.get(id),
      order: () => orUnavailable(() => this.#lookup.order()),
    });
    this.#removal = new JobRemoval({
      redis: this.#redis,
      bull: this.#bull,
      lookup: this.#lookup,
      store,
      recordTtlSeconds: this.#recordTtlSeconds,
      onRemoved: (id) => this.#events.notify(id),
    });
  }

  /** Resolves when connected; rejects with `redis_unavailable` after the time limit. */
  async ready(timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    await this.#bull.ready(timeoutMs);
    // It was ready once; after an absence, until it answers again.
    for (;;) {
      try {
        return await orUnavailable(() => checkRedis(this.#redis));
      } catch (error) {
        const isHopeless = error instanceof AppError && error.code === 'invalid_config';
        if (isHopeless || Date.now() > deadline) throw error;
        await pause(pingAgainMs);
      }
    }
  }

  /**
   * Resolves once Redis has been seen to let us in as one that takes jobs, and from then on whatever happens to it. One
   * that is full does: for every instance alike, and deletions, which make room in its memory, come through this one too.
   * @throws redis_unavailable while Redis is away, a replica or closed to its user
   */
  async accepts(): Promise<void> {
    if (this.#hasAccepted) return;
    this.#bull.get();
    await orUnavailable(async () => {
      try {
        await tryOut(this.#redis);
      } catch (error) {
        if (!isFull(error)) throw error;
      }
    });
    this.#hasAccepted = true;
  }

  /**
   * Accepts a job: stores the uploads, then enqueues. When it resolves the job is never lost.
   * @param id a UUID, the public job id
   * @param uploads byte for byte
   */
  async submit(
    id: string,
    uploads: JobUploads,
    data: UpscaleJobData,
    options: SubmitOptions = {},
  ): Promise<JobSnapshot> {
    const span = startSpan(`send ${upscaleQueueName}`, {
      kind: 'producer',
      parent: data.traceparent,
      attributes: {
        'messaging.system': 'bullmq',
        'messaging.operation.type': 'send',
        'messaging.destination.name': upscaleQueueName,
        'pisa.job': id,
      },
    });
    if (!span) return this.#submit(id, uploads, data, options);
    try {
      return await this.#submit(id, uploads, { ...data, traceparent: span.traceparent }, options);
    } finally {
      span.end();
    }
  }

  async #submit(
    id: string,
    uploads: JobUploads,
    data: UpscaleJobData,
    { mayExist = false, within }: SubmitOptions,
  ): Promise<JobSnapshot> {
    if (within) await this.limits.reserveJob(within.client, within.concurrentJobs, id);
    try {
      await orUnavailable(() => this.#storeUploads(uploads, data, inputTtlSeconds));
      const options = data.priority === 'batch' ? { priority: batchPriority } : {};
      const job = await orUnavailable(() => this.#bull.add(id, data, options));
      const added: JobSnapshot = {
        id,
        status: 'queued',
        data,
        createdAt: job.timestamp,
        ...(data.webhook ? { webhook: newDelivery(data.webhook) } : {}),
      };
      return mayExist ? await this.#asItIs(added) : added;
    } catch (error) {
      // Nobody will ever read it, unless the job is in the queue all the same. Its time to live ends it.
      if (!mayExist) await deleteObjects(this.#store, sideKeys(id)).catch(() => {});
      if (within) await this.limits.releaseJob(within.client, id).catch(() => {});
      throw error;
    }
  }

  /** @returns key and size of each */
  async #storeUploads(
    { image, maps = {} }: JobUploads,
    data: UpscaleJobData,
    ttlSeconds: number,
  ): Promise<Pick<KeptObject, 'key' | 'bytes'>[]> {
    const stored: Pick<KeptObject, 'key' | 'bytes'>[] = [];
    const put = async (key: string | undefined, bytes: Uint8Array | undefined): Promise<void> => {
      if (key === undefined || !bytes) return;
      await this.#store.put(key, bytes, ttlSeconds);
      stored.push({ key, bytes: bytes.byteLength });
    };
    await put(data.input.key, image);
    await put(data.maps?.pix, maps.pix);
    await put(data.maps?.sem, maps.sem);
    return stored;
  }

  /** BullMQ adds no second job under an id, and does not say so: look. */
  async #asItIs(added: JobSnapshot): Promise<JobSnapshot> {
    const job = (await this.get(added.id)) ?? added;
    // The other one was quicker, and has done with its input: ours came after it.
    if (isFinal(job.status) && !job.result?.kept.length) {
      await deleteObjects(this.#store, sideKeys(added.id)).catch(() => {});
    }
    return job;
  }

  /** True when a request with this key has come before, and its job is the answer to the next one. */
  async isClaimed(claim: Pick<IdempotencyClaim, 'client' | 'key'>): Promise<boolean> {
    const bound = await orUnavailable(() => readBinding(this.#redis, claim));
    return bound !== undefined && !mayBeTriedAgain(await this.get(bound.id));
  }

  /** The job of a request with this key that came before in the same words. */
  async findClaimed({
    wording,
    ...claim
  }: Omit<Required<IdempotencyClaim>, 'fingerprint'>): Promise<JobSnapshot | undefined> {
    const bound = await orUnavailable(() => readBinding(this.#redis, claim));
    return bound?.wording === wording ? this.get(bound.id) : undefined;
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
    const bound = await orUnavailable(() => bindKey(this.#redis, claim, newId, ttlSeconds));
    const { id } = bound;
    if (bound.fingerprint !== claim.fingerprint) {
      throw new AppError(
        'idempotency_key_reused',
        'This Idempotency-Key came before with another image, other parameters or on another route. Use a new key for a new request.',
        {
          errors: [{ pointer: '#/headers/idempotency-key', detail: 'Bound to another request.' }],
        },
      );
    }
    const job = id === newId ? undefined : await this.get(id);
    if (canReplace && mayBeTriedAgain(job)) {
      const change = { from: id, to: newId };
      await orUnavailable(() => rebindKey(this.#redis, claim, change, ttlSeconds));
      return this.claim(claim, newId, ttlSeconds);
    }
    // Who answered it from a stored result may have ended, or lost Redis, before its webhook was queued.
    return job ? { id, job: await orUnavailable(() => this.#tellOf(job)) } : { id };
  }

  /** Adds the webhook of a job that was answered from a stored result, unless it is there. */
  async #tellOf(job: JobSnapshot): Promise<JobSnapshot> {
    if (!job.reused || !job.data.webhook || job.webhook) return job;
    // A key may lead to the job for longer than its delivery is on record: by then it has been made, and is forgotten.
    if (Date.now() - job.createdAt > this.#recordTtlSeconds * 1000) return job;
    await this.#bull.addDelivery(job, job.data.webhook);
    return this.#lookup.withWebhook(job);
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
    { keepMaxBytes, keySeconds, ...bounds }: ReuseOptions,
  ): Promise<JobSnapshot | undefined> {
    return orUnavailable(async () => {
      const model = await findModel(this.#redis, data.params.model);
      if (!model || data.contentKey === undefined) return undefined;
      const made = await findResult(this.#redis, data.contentKey, model.sha256);
      const maker = made === undefined ? undefined : await this.get(made);
      const { result } = maker ?? {};
      if (!result) return undefined;
      const createdAt = Date.now();
      const expiresAt = createdAt + data.ttlSeconds * 1000;
      const recordSeconds = reuseRecordTtl(data.ttlSeconds, keySeconds);
      // BullMQ keeps a delivery for as long as any job.
      const heldSeconds = data.webhook
        ? Math.max(recordSeconds, this.#recordTtlSeconds)
        : recordSeconds;
      const counted = [
        { ...copyOf(id, result), until: expiresAt + longestSweepMs },
        { ...recordOf(id, data), until: createdAt + heldSeconds * 1000 },
      ];
      if (!(await admitReuse(this.#redis, data, counted, bounds))) return undefined;
      const key = outputKey(id);
      let isCopied = false;
      try {
        isCopied = await this.#store.copy(result.output.key, key, data.ttlSeconds);
      } finally {
        if (!isCopied) await forgetReuse(this.#redis, data, counted);
      }
      if (!isCopied) return undefined;
      const kept = await this.#keepUploads(uploads, data, { expiresAt, keepMaxBytes });
      const output = { ...result.output, key, expiresAt };
      const record = { data, createdAt, result: { ...result, output, kept } };
      await reuseRecords.write(this.#redis, id, record, recordSeconds);
      // It has ended already: told at once. Until both are written the client has no answer, and a retry sees to it.
      return this.#tellOf(snapshotOfReuseRecord(id, record));
    });
  }

  /** As a worker does when a job has succeeded. Latents and residuals are computed anew when other dials need them. */
  async #keepUploads(
    uploads: JobUploads,
    data: UpscaleJobData,
    { expiresAt, keepMaxBytes }: { expiresAt: number; keepMaxBytes: number },
  ): Promise<KeptObject[]> {
    if (keepMaxBytes === 0) return [];
    const owner = { redis: this.#redis, store: this.#store };
    try {
      const stored = await this.#storeUploads(uploads, data, data.ttlSeconds);
      const kept = stored.map((object) => ({ ...object, expiresAt }));
      await keepObjects(owner, kept, { maxBytes: keepMaxBytes });
      return kept;
    } catch {
      // The image is there: what fails costs later requests their source, not this one its answer.
      const keys = [data.input.key, ...Object.values(data.maps ?? {})];
      await Promise.allSettled([forgetKept(this.#redis, keys), deleteObjects(this.#store, keys)]);
      return [];
    }
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
