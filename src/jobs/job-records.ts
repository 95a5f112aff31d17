/** One kind of record of a job beside BullMQ's own, as JSON in Redis, with a time to live. */
import type { Redis } from 'ioredis';

export class JobRecords<T> {
  /** The key of a record is this and the id of its job. */
  readonly prefix: string;

  constructor(prefix: string) {
    this.prefix = prefix;
  }

  async write(redis: Redis, id: string, record: T, ttlSeconds: number): Promise<void> {
    await redis.set(this.prefix + id, JSON.stringify(record), 'EX', ttlSeconds);
  }

  async read(redis: Redis, id: string): Promise<T | undefined> {
    const text = await redis.get(this.prefix + id);
    return text === null ? undefined : (JSON.parse(text) as T);
  }

  async has(redis: Redis, id: string): Promise<boolean> {
    return (await redis.exists(this.prefix + id)) === 1;
  }

  async delete(redis: Redis, id: string): Promise<void> {
    await redis.del(this.prefix + id);
  }
}
