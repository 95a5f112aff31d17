/** Takes jobs in: their uploads go to the object store, then they enter BullMQ's queue. */
import { deleteObjects, type ObjectStore } from '../storage/object-store.ts';
import { startSpan } from '../tracing/tracing.ts';
import type { BullQueue } from './bull-queue.ts';
import type { ClientLimits } from './client-limits.ts';
import { inputTtlSeconds, sideKeys, type UpscaleJobData, upscaleQueueName } from './job.ts';
import type { JobLookup } from './job-lookup.ts';
import { isFinal, type JobSnapshot } from './job-snapshot.ts';
import { type JobUploads, storeUploads } from './job-uploads.ts';
import { newDelivery } from './webhook.ts';

export interface JobSubmissionOptions {
  bull: BullQueue;
  lookup: JobLookup;
  limits: ClientLimits;
  store: ObjectStore;
}

export interface SubmitOptions {
  /** Somebody else may be submitting the same job under the same id. */
  mayExist?: boolean;
  /** Counts the job among those of a client that have not ended. `concurrentJobs` 0: no limit. */
  within?: { client: string; concurrentJobs: number };
}

/** BullMQ takes jobs without a priority first. */
const batchPriority = 10;

export class JobSubmission {
  readonly #options: JobSubmissionOptions;

  constructor(options: JobSubmissionOptions) {
    this.#options = options;
  }

  /** See `UpscaleQueue.submit`. */
  async submit(
    id: string,
    uploads: JobUploads,
    data: UpscaleJobData,
    options: SubmitOptions,
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
    const { bull, limits, store } = this.#options;
    if (within) await limits.reserveJob(within.client, within.concurrentJobs, id);
    try {
      await storeUploads(store, uploads, data, inputTtlSeconds);
      const options = data.priority === 'batch' ? { priority: batchPriority } : {};
      const job = await bull.add(id, data, options);
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
      if (!mayExist) await deleteObjects(store, sideKeys(id)).catch(() => {});
      if (within) await limits.releaseJob(within.client, id).catch(() => {});
      throw error;
    }
  }

  /** BullMQ adds no second job under an id, and does not say so: look. */
  async #asItIs(added: JobSnapshot): Promise<JobSnapshot> {
    const { lookup, store } = this.#options;
    const job = (await lookup.get(added.id)) ?? added;
    // The other one was quicker, and has done with its input: ours came after it.
    if (isFinal(job.status) && !job.result?.kept.length) {
      await deleteObjects(store, sideKeys(added.id)).catch(() => {});
    }
    return job;
  }
}
