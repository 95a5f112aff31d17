/** Images in Redis: nothing to mount, fit for small set-ups and for tests. Redis ends their lives by itself. */
import type { Redis } from 'ioredis';
import { checkKey, type ObjectStore } from './object-store.ts';

const redisKey = (key: string) => `pisa:object:${checkKey(key)}`;

export class RedisStore implements ObjectStore {
  readonly #redis: Redis;

  /** @param redis a connection of its own: `close` ends it */
  constructor(redis: Redis) {
    this.#redis = redis;
  }

  async put(key: string, bytes: Uint8Array, ttlSeconds: number): Promise<void> {
    await this.#redis.set(redisKey(key), asBuffer(bytes), 'EX', Math.max(1, Math.ceil(ttlSeconds)));
  }

  async get(key: string): Promise<Buffer | undefined> {
    return (await this.#redis.getBuffer(redisKey(key))) ?? undefined;
  }

  async has(key: string): Promise<boolean> {
    return (await this.#redis.exists(redisKey(key))) === 1;
  }

  async delete(key: string): Promise<void> {
    await this.#redis.unlink(redisKey(key));
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
  }
}

/** A view, not a copy: ioredis sends a Buffer as bytes but a Uint8Array as text. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
