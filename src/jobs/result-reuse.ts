/**
 * Answers requests from stored results: each becomes a job that has succeeded already, with a copy of the image and an
 * upload of its own, so that the job which made the image may be deleted, or end, before it.
 */
import type { Redis } from 'ioredis';
import { deleteObjects, longestSweepMs, type ObjectStore } from '../storage/object-store.ts';
import type { BullQueue } from './bull-queue.ts';
import { type KeptObject, outputKey, type UpscaleJobData, type UpscaleJobResult } from './job.ts';
import type { JobLookup } from './job-lookup.ts';
import { type JobSnapshot, snapshotOfReuseRecord } from './job-snapshot.ts';
import { type JobUploads, storeUploads } from './job-uploads.ts';
import { forgetKept, keepObjects } from './kept-objects.ts';
import {
  admitReuse,
  copyOf,
  forgetReuse,
  type ReuseBounds,
  recordOf,
  reuseRecordTtl,
} from './reused-bytes.ts';
import { findResult, reuseRecords } from './stored-results.ts';
import { findModel } from './worker-registry.ts';

export interface ResultReuseOptions {
  redis: Redis;
  bull: BullQueue;
  lookup: JobLookup;
  store: ObjectStore;
  /** How long BullMQ keeps a delivery that has ended. */
  recordTtlSeconds: number;
}

export interface ReuseOptions extends ReuseBounds {
  /** Of all that is kept for other dials. 0: nothing is. */
  keepMaxBytes: number;
  /** For so long an Idempotency-Key is bound to the job. 0: none is. */
  keySeconds: number;
}

export class ResultReuse {
  readonly #options: ResultReuseOptions;

  constructor(options: ResultReuseOptions) {
    this.#options = options;
  }

  /** See `UpscaleQueue.reuse`. */
  async reuse(
    id: string,
    uploads: JobUploads,
    data: UpscaleJobData,
    { keepMaxBytes, keySeconds, ...bounds }: ReuseOptions,
  ): Promise<JobSnapshot | undefined> {
    const { redis, store, recordTtlSeconds } = this.#options;
    const result = await this.#findResult(data);
    if (!result) return undefined;
    const createdAt = Date.now();
    const expiresAt = createdAt + data.ttlSeconds * 1000;
    const recordSeconds = reuseRecordTtl(data.ttlSeconds, keySeconds);
    // BullMQ keeps a delivery for as long as any job.
    const heldSeconds = data.webhook ? Math.max(recordSeconds, recordTtlSeconds) : recordSeconds;
    const counted = [
      { ...copyOf(id, result), until: expiresAt + longestSweepMs },
      { ...recordOf(id, data), until: createdAt + heldSeconds * 1000 },
    ];
    if (!(await admitReuse(redis, data, counted, bounds))) return undefined;
    const key = outputKey(id);
    let isCopied = false;
    try {
      isCopied = await store.copy(result.output.key, key, data.ttlSeconds);
    } finally {
      if (!isCopied) await forgetReuse(redis, data, counted);
    }
    if (!isCopied) return undefined;
    const kept = await this.#keepUploads(uploads, data, { expiresAt, keepMaxBytes });
    const output = { ...result.output, key, expiresAt };
    const record = { data, createdAt, result: { ...result, output, kept } };
    await reuseRecords.write(redis, id, record, recordSeconds);
    // It has ended already: told at once. Until both are written the client has no answer, and a retry sees to it.
    return this.withDelivery(snapshotOfReuseRecord(id, record));
  }

  /**
   * Queues the webhook of a job that was answered from a stored result, unless it is there.
   * @returns the job, with the state of its webhook
   */
  async withDelivery(job: JobSnapshot): Promise<JobSnapshot> {
    const { bull, lookup, recordTtlSeconds } = this.#options;
    if (!job.reused || !job.data.webhook || job.webhook) return job;
    // A key may lead to the job for longer than its delivery is on record: by then it has been made, and is forgotten.
    if (Date.now() - job.createdAt > recordTtlSeconds * 1000) return job;
    await bull.addDelivery(job, job.data.webhook);
    return lookup.withWebhook(job);
  }

  /** What the same bundle has made of the same image and parameters. */
  async #findResult({ contentKey, params }: UpscaleJobData): Promise<UpscaleJobResult | undefined> {
    const { redis, lookup } = this.#options;
    const model = await findModel(redis, params.model);
    if (!model || contentKey === undefined) return undefined;
    const maker = await findResult(redis, contentKey, model.sha256);
    return maker === undefined ? undefined : (await lookup.get(maker))?.result;
  }

  /** As a worker does when a job has succeeded. Latents and residuals are computed anew when other dials need them. */
  async #keepUploads(
    uploads: JobUploads,
    data: UpscaleJobData,
    { expiresAt, keepMaxBytes }: { expiresAt: number; keepMaxBytes: number },
  ): Promise<KeptObject[]> {
    if (keepMaxBytes === 0) return [];
    const { redis, store } = this.#options;
    try {
      const stored = await storeUploads(store, uploads, data, data.ttlSeconds);
      const kept = stored.map((object) => ({ ...object, expiresAt }));
      await keepObjects({ redis, store }, kept, { maxBytes: keepMaxBytes });
      return kept;
    } catch {
      // The image is there: what fails costs later requests their source, not this one its answer.
      const keys = [data.input.key, ...Object.values(data.maps ?? {})];
      await Promise.allSettled([forgetKept(redis, keys), deleteObjects(store, keys)]);
      return [];
    }
  }
}
