/**
 * The producer's BullMQ queue. A BullMQ `Queue` asks Redis for its version as soon as it is made and, on a
 * connection that fails at once, remembers a failure for ever. So it is made when Redis is ready, not before,
 * and an api that starts ahead of its Redis recovers.
 */
import { Queue } from 'bullmq';
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import { type UpscaleJobData, type UpscaleJobResult, upscaleQueueName } from './job.ts';

type UpscaleBullQueue = Queue<UpscaleJobData, UpscaleJobResult>;

/** Three chances: a job whose device process died twice with it once more, alone on its device. */
const attempts = 3;
const retryDelayMs = 1000;

export class BullQueue {
  readonly #redis: Redis;
  readonly #open: () => void;
  #queue: UpscaleBullQueue | undefined;
  #opened: Promise<void>;
  #resolveOpened: () => void = () => {};

  /**
   * @param redis connection of role `producer`; stays the caller's
   * @param recordTtlSeconds how long a finished job can be looked up
   */
  constructor(redis: Redis, recordTtlSeconds: number, onError: (error: Error) => void) {
    this.#redis = redis;
    this.#opened = new Promise((resolve) => {
      this.#resolveOpened = resolve;
    });
    let opening = false;
    this.#open = () => {
      if (this.#queue || opening) return;
      opening = true;
      const queue = createQueue(redis, recordTtlSeconds, onError);
      queue.waitUntilReady().then(
        () => {
          this.#queue = queue;
          this.#resolveOpened();
        },
        (error: Error) => {
          // Redis went away in between: the next `ready` tries again.
          opening = false;
          onError(error);
          queue.close().catch(() => {});
        },
      );
    };
    redis.on('ready', this.#open);
    if (redis.status === 'ready') this.#open();
  }

  /** @throws redis_unavailable until Redis has been reached once */
  get(): UpscaleBullQueue {
    if (this.#queue) return this.#queue;
    throw new AppError(
      'redis_unavailable',
      'The queue has not been reached yet. Try again in a few seconds.',
      { retryAfterSeconds: 5 },
    );
  }

  /** @throws redis_unavailable when Redis is not reached within `timeoutMs` */
  async ready(timeoutMs: number): Promise<void> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(
          new AppError('redis_unavailable', `Redis did not answer within ${timeoutMs} ms.`, {
            retryAfterSeconds: 5,
          }),
        );
      }, timeoutMs);
    });
    try {
      await Promise.race([this.#opened, late]);
    } finally {
      clearTimeout(timer);
    }
  }

  async close(): Promise<void> {
    this.#redis.off('ready', this.#open);
    await this.#queue?.close();
  }
}

function createQueue(
  redis: Redis,
  recordTtlSeconds: number,
  onError: (error: Error) => void,
): UpscaleBullQueue {
  const queue: UpscaleBullQueue = new Queue(upscaleQueueName, {
    connection: redis,
    skipWaitingForReady: true,
    defaultJobOptions: {
      attempts,
      backoff: { type: 'fixed', delay: retryDelayMs },
      // By age only, the same for every job: BullMQ applies the age of the job that finishes to all of them.
      removeOnComplete: { age: recordTtlSeconds },
      removeOnFail: { age: recordTtlSeconds },
      // The supervisor logs the cause; Redis needs only the code and detail.
      stackTraceLimit: 0,
    },
  });
  queue.on('error', onError);
  return queue;
}
