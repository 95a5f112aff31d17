/**
 * When the objects of a bucket expire: an index in Redis, by which they are deleted. S3 itself knows no time to live in
 * seconds.
 */
import type { Redis } from 'ioredis';

/** What a sweep needs of the bucket. */
interface Bucket {
  /** False when it has expired or is not there. */
  has: (key: string) => Promise<boolean>;
  delete: (key: string) => Promise<void>;
}

/** Member = storage key, score = expiry in epoch ms. */
const expiriesKey = 'pisa:s3:expires';
const sweepBatch = 500;
/**
 * Objects that a sweep asks for and deletes at a time, one by one: for DeleteObjects many servers besides AWS want a
 * Content-MD5, which the SDK no longer sends (aws/aws-sdk-js-v3#6920).
 */
const sweptAtOnce = 16;

export class S3Expiries {
  readonly #redis: Redis;
  readonly #bucket: Bucket;
  #sweeping: Promise<void> | undefined;

  constructor(redis: Redis, bucket: Bucket) {
    this.#redis = redis;
    this.#bucket = bucket;
  }

  /** Before the object is written: one without an entry would stay. @returns when it expires, in epoch ms */
  async note(key: string, ttlSeconds: number): Promise<number> {
    const expiresAt = Math.ceil(Date.now() + ttlSeconds * 1000);
    await this.#redis.zadd(expiriesKey, expiresAt, key);
    return expiresAt;
  }

  /** The object has been deleted. */
  async forget(key: string): Promise<void> {
    await this.#redis.zrem(expiriesKey, key);
  }

  /** Deletes what has expired. One that is asked for while another runs is that one. */
  sweep(): Promise<void> {
    this.#sweeping ??= this.#sweepAll().finally(() => {
      this.#sweeping = undefined;
    });
    return this.#sweeping;
  }

  async #sweepAll(): Promise<void> {
    for (;;) {
      const now = Date.now();
      const due = await this.#redis.zrangebyscore(expiriesKey, '-inf', now, 'LIMIT', 0, sweepBatch);
      for (let i = 0; i < due.length; i += sweptAtOnce) {
        const some = due.slice(i, i + sweptAtOnce).map((key) => this.#sweepObject(key, now));
        const failed = (await Promise.allSettled(some)).find(({ status }) => status === 'rejected');
        if (failed?.status === 'rejected') throw failed.reason;
      }
      if (due.length < sweepBatch) return;
    }
  }

  async #sweepObject(key: string, now: number): Promise<void> {
    // Written again since: the entry that this made is not due.
    if (await this.#bucket.has(key)) return;
    await this.#bucket.delete(key);
    const expiry = await this.#redis.zscore(expiriesKey, key);
    if (expiry !== null && Number(expiry) <= now) await this.#redis.zrem(expiriesKey, key);
  }
}
