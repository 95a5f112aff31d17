/**
 * The producer's BullMQ queues: upscale jobs, and the webhooks that wait for them. A BullMQ `Queue` asks Redis for its
 * version as soon as it is made and, on a connection that fails at once, remembers a failure for ever. So it is made
 * when Redis is ready, not before, and an api that starts ahead of its Redis recovers.
 */
import { FlowProducer, type JobsOptions, Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import { within } from '../waits.ts';
import { type UpscaleJobData, type UpscaleJobResult, upscaleQueueName } from './job.ts';
import type { JobSnapshot, UpscaleJob } from './job-snapshot.ts';
import {
  type DeliveryQueue,
  deliveryData,
  endedJob,
  type Webhook,
  webhookQueueName,
} from './webhook.ts';

type UpscaleBullQueue = Queue<UpscaleJobData, UpscaleJobResult>;

interface Queues {
  jobs: UpscaleBullQueue;
  deliveries: DeliveryQueue;
  flows: FlowProducer;
}

/** Three chances: a job whose device process died twice with it once more, alone on its device. */
const attempts = 3;
const retryDelayMs = 1000;

export class BullQueue {
  readonly #redis: Redis;
  readonly #open: () => void;
  readonly #keep: KeepRecords;
  #queues: Queues | undefined;
  /** Why they could not be opened when that was tried last. */
  #fault: Error | undefined;
  #opened: Promise<void>;
  #resolveOpened: () => void = () => {};

  /**
   * @param redis connection of role `producer`; stays the caller's
   * @param recordTtlSeconds how long a finished job can be looked up
   */
  constructor(redis: Redis, recordTtlSeconds: number, onError: (error: Error) => void) {
    this.#redis = redis;
    // By age only, the same for every job: BullMQ applies the age of the job that finishes to all of them.
    this.#keep = {
      removeOnComplete: { age: recordTtlSeconds },
      removeOnFail: { age: recordTtlSeconds },
    };
    this.#opened = new Promise((resolve) => {
      this.#resolveOpened = resolve;
    });
    let opening = false;
    this.#open = () => {
      if (this.#queues || opening) return;
      opening = true;
      const queues = createQueues(redis, this.#keep, onError);
      const { jobs, deliveries, flows } = queues;
      const ready = [jobs, deliveries, flows].map((queue) => queue.waitUntilReady());
      Promise.all(ready).then(
        () => {
          this.#queues = queues;
          this.#resolveOpened();
        },
        (error: Error) => {
          // Redis went away in between: the next `ready` tries again. Or it is none for us: so does whoever asks next.
          opening = false;
          this.#fault = error;
          onError(error);
          closeQueues(queues).catch(() => {});
        },
      );
    };
    redis.on('ready', this.#open);
    if (redis.status === 'ready') this.#open();
  }

  /** @throws redis_unavailable until Redis has been reached once */
  get(): UpscaleBullQueue {
    return this.#get().jobs;
  }

  /** @throws redis_unavailable until Redis has been reached once */
  deliveries(): DeliveryQueue {
    return this.#get().deliveries;
  }

  /**
   * Adds a job and, in the same step, the delivery of its webhook if it has one.
   * @throws redis_unavailable until Redis has been reached once
   */
  async add(id: string, data: UpscaleJobData, options: JobsOptions): Promise<UpscaleJob> {
    const { jobs, flows } = this.#get();
    const { webhook } = data;
    if (!webhook) return jobs.add('upscale', data, { ...options, jobId: id });
    // BullMQ ignores a job under an id that it has, but would tie its delivery to it anew.
    const there = await jobs.getJob(id);
    if (there) return there;
    const flow = await flows.add({
      name: 'deliver',
      queueName: webhookQueueName,
      data: deliveryData(webhook, data),
      opts: this.#deliveryOptions(id, webhook),
      children: [
        {
          name: 'upscale',
          queueName: upscaleQueueName,
          data,
          opts: {
            ...jobs.defaultJobOptions,
            ...options,
            jobId: id,
            // A job that fails has ended too.
            ignoreDependencyOnFailure: true,
          },
        },
      ],
    });
    const [child] = flow.children ?? [];
    if (!child) throw new Error('BullMQ added no job.');
    return child.job as UpscaleJob;
  }

  /**
   * Adds the delivery of a job that has ended already. It says how, since it may be delivered when that is forgotten.
   * @throws redis_unavailable until Redis has been reached once
   */
  async addDelivery(job: JobSnapshot, webhook: Webhook): Promise<void> {
    const data = { ...deliveryData(webhook, job.data), ended: endedJob(job) };
    await this.deliveries().add('deliver', data, this.#deliveryOptions(job.id, webhook));
  }

  #deliveryOptions(id: string, { attempts }: Webhook): JobsOptions {
    return {
      ...this.#keep,
      jobId: id,
      attempts,
      backoff: { type: 'custom' },
      stackTraceLimit: 0,
    };
  }

  #get(): Queues {
    if (this.#queues) return this.#queues;
    if (this.#redis.status === 'ready') this.#open();
    throw new AppError(
      'redis_unavailable',
      `The queue has not been reached yet${this.#because()}. Try again in a few seconds.`,
      { retryAfterSeconds: 5 },
    );
  }

  /** @throws redis_unavailable when Redis is not reached within `timeoutMs` */
  async ready(timeoutMs: number): Promise<void> {
    if (await within(this.#opened, timeoutMs)) return;
    throw new AppError(
      'redis_unavailable',
      `Redis did not answer within ${timeoutMs} ms${this.#because()}.`,
      { retryAfterSeconds: 5 },
    );
  }

  #because(): string {
    return this.#fault ? ` (${this.#fault.message})` : '';
  }

  async close(): Promise<void> {
    this.#redis.off('ready', this.#open);
    if (this.#queues) await closeQueues(this.#queues);
  }
}

type KeepRecords = Required<Pick<JobsOptions, 'removeOnComplete' | 'removeOnFail'>>;

function createQueues(redis: Redis, keep: KeepRecords, onError: (error: Error) => void): Queues {
  const options = { connection: redis, skipWaitingForReady: true };
  const jobs: UpscaleBullQueue = new Queue(upscaleQueueName, {
    ...options,
    defaultJobOptions: {
      ...keep,
      attempts,
      backoff: { type: 'fixed', delay: retryDelayMs },
      // The supervisor logs the cause; Redis needs only the code and detail.
      stackTraceLimit: 0,
    },
  });
  const deliveries: DeliveryQueue = new Queue(webhookQueueName, options);
  const flows = new FlowProducer({ connection: redis });
  jobs.on('error', onError);
  deliveries.on('error', onError);
  flows.on('error', onError);
  return { jobs, deliveries, flows };
}

async function closeQueues({ jobs, deliveries, flows }: Queues): Promise<void> {
  await Promise.all([jobs.close(), deliveries.close(), flows.close()]);
}
