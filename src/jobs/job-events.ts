/**
 * Tells when something happened to a job. One event stream per process, fanned out by job id, so that a
 * thousand waiting requests cost one Redis connection.
 */
import { EventEmitter } from 'node:events';
import { QueueEvents } from 'bullmq';
import type { Redis } from 'ioredis';
import { within } from '../waits.ts';
import { bullConnection } from './bull-connection.ts';
import { type Progress, upscaleQueueName } from './job.ts';
import { connectRedis } from './redis.ts';

const eventNames = ['waiting', 'active', 'delayed', 'completed', 'failed', 'removed'] as const;

const closeLimitMs = 1000;

/** What happened, where that can be told without looking at the job. */
export interface JobChange {
  progress?: Progress;
}

export type JobListener = (change: JobChange) => void;

export class JobEvents {
  readonly #redis: Redis;
  readonly #stream: QueueEvents;
  readonly #listeners = new EventEmitter().setMaxListeners(0);

  constructor(redisUrl: string, onError: (error: Error) => void) {
    this.#redis = connectRedis(redisUrl, 'consumer', onError);
    this.#stream = new QueueEvents(upscaleQueueName, { connection: bullConnection(redisUrl) });
    this.#stream.on('error', onError);
    for (const name of eventNames) {
      this.#stream.on(name, ({ jobId }: { jobId: string }) => {
        this.notify(jobId);
        this.#listeners.emit('queue');
      });
    }
    this.#stream.on('progress', ({ jobId, data }) => {
      this.notify(jobId, typeof data === 'object' ? { progress: data as Progress } : {});
    });
    // What happened while the connection was away may be lost.
    this.#redis.on('ready', () => this.#listeners.emit('reconnected'));
  }

  /** Calls the listeners of a job: something changed, look again. */
  notify(id: string, change: JobChange = {}): void {
    this.#listeners.emit(`job:${id}`, change);
  }

  /** @returns a function that ends the subscription */
  subscribe(id: string, listener: JobListener): () => void {
    this.#listeners.on(`job:${id}`, listener);
    return () => this.#listeners.off(`job:${id}`, listener);
  }

  /**
   * @param what `queue`: some job came, went or moved, so positions may have changed; `reconnected`: events
   *   may have been missed
   * @returns a function that ends the subscription
   */
  onEvery(what: 'queue' | 'reconnected', listener: () => void): () => void {
    this.#listeners.on(what, listener);
    return () => this.#listeners.off(what, listener);
  }

  async close(): Promise<void> {
    // BullMQ waits for a connection that is just being made again, which may be never.
    await within(this.#stream.close(), closeLimitMs).catch(() => {});
    this.#redis.disconnect();
  }
}
