/**
 * Tells when something happened to a job. One event stream per process, fanned out by job id, so that a
 * thousand waiting requests cost one Redis connection.
 */
import { EventEmitter } from 'node:events';
import { QueueEvents } from 'bullmq';
import type { Redis } from 'ioredis';
import { upscaleQueueName } from './job.ts';
import { connectRedis } from './redis.ts';
import { within } from './within.ts';

const eventNames = [
  'waiting',
  'active',
  'progress',
  'delayed',
  'completed',
  'failed',
  'removed',
] as const;

const closeLimitMs = 1000;

export class JobEvents {
  readonly #redis: Redis;
  readonly #stream: QueueEvents;
  readonly #listeners = new EventEmitter().setMaxListeners(0);

  constructor(redisUrl: string, onError: (error: Error) => void) {
    this.#redis = connectRedis(redisUrl, 'consumer', onError);
    this.#stream = new QueueEvents(upscaleQueueName, { connection: this.#redis });
    this.#stream.on('error', onError);
    for (const name of eventNames) {
      this.#stream.on(name, ({ jobId }: { jobId: string }) => this.notify(jobId));
    }
  }

  /** Resolves when events that happen from now on will be seen. */
  async ready(): Promise<void> {
    await this.#stream.waitUntilReady();
  }

  /** Calls the listeners of a job: something changed, look again. */
  notify(id: string): void {
    this.#listeners.emit(`job:${id}`);
  }

  /** @returns a function that ends the subscription */
  subscribe(id: string, listener: () => void): () => void {
    this.#listeners.on(`job:${id}`, listener);
    return () => this.#listeners.off(`job:${id}`, listener);
  }

  async close(): Promise<void> {
    // BullMQ waits for a connection that is just being made again, which may be never.
    await within(this.#stream.close(), closeLimitMs).catch(() => {});
    this.#redis.disconnect();
  }
}
