/** Whether Redis takes jobs from this process: what its start waits for, and what `/readyz` asks. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import type { BullQueue } from './bull-queue.ts';
import { checkRedis, tryOut } from './redis-check.ts';
import { isFull } from './redis-faults.ts';

const pingAgainMs = 100;

export class QueueReadiness {
  readonly #redis: Redis;
  readonly #bull: BullQueue;
  #hasAccepted = false;

  constructor(redis: Redis, bull: BullQueue) {
    this.#redis = redis;
    this.#bull = bull;
  }

  /** See `UpscaleQueue.ready`. */
  async ready(timeoutMs: number): Promise<void> {
    const deadline = Date.now() + timeoutMs;
    await this.#bull.ready(timeoutMs);
    // It was ready once; after an absence, until it answers again.
    for (;;) {
      try {
        return await checkRedis(this.#redis);
      } catch (error) {
        const isHopeless = error instanceof AppError && error.code === 'invalid_config';
        if (isHopeless || Date.now() > deadline) throw error;
        await pause(pingAgainMs);
      }
    }
  }

  /** See `UpscaleQueue.accepts`. */
  async accepts(): Promise<void> {
    if (this.#hasAccepted) return;
    this.#bull.get();
    try {
      await tryOut(this.#redis);
    } catch (error) {
      if (!isFull(error)) throw error;
    }
    this.#hasAccepted = true;
  }
}
