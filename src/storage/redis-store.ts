/** Images in Redis: nothing to mount, fit for small set-ups and for tests. Redis ends their lives by itself. */
import { Readable } from 'node:stream';
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import { refusal } from '../jobs/redis-faults.ts';
import { checkKey, type ObjectStore } from './object-store.ts';

/** Redis serves others between two of them. */
const pieceBytes = 1_048_576;
/** Somebody has to see to it: that takes longer than a server takes to come back. */
const retryAfterSeconds = 30;
const redisKey = (key: string) => `pisa:object:${checkKey(key)}`;

export class RedisStore implements ObjectStore {
  readonly #redis: Redis;

  /** @param redis a connection of its own: `close` ends it */
  constructor(redis: Redis) {
    this.#redis = redis;
  }

  async put(key: string, bytes: Uint8Array, ttlSeconds: number): Promise<void> {
    await orRefused(() =>
      this.#redis.set(redisKey(key), asBuffer(bytes), 'EX', wholeSeconds(ttlSeconds)),
    );
  }

  async get(key: string): Promise<Buffer | undefined> {
    return (await this.#redis.getBuffer(redisKey(key))) ?? undefined;
  }

  async stream(key: string): Promise<Readable | undefined> {
    const bytes = await this.#redis.strlen(redisKey(key));
    return bytes === 0 ? undefined : Readable.from(this.#pieces(key, bytes), { objectMode: false });
  }

  async copy(from: string, to: string, ttlSeconds: number): Promise<boolean> {
    const seconds = wholeSeconds(ttlSeconds);
    const copy = this.#redis
      .multi()
      .copy(redisKey(from), redisKey(to), 'REPLACE')
      .expire(redisKey(to), seconds);
    const [copied] = (await orRefused(() => copy.exec())) ?? [];
    if (copied?.[0]) throw copied[0];
    return copied?.[1] === 1;
  }

  async expire(key: string, ttlSeconds: number): Promise<boolean> {
    const set = () => this.#redis.expire(redisKey(key), wholeSeconds(ttlSeconds));
    return (await orRefused(set)) === 1;
  }

  async has(key: string): Promise<boolean> {
    return (await this.#redis.exists(redisKey(key))) === 1;
  }

  async delete(key: string): Promise<void> {
    await orRefused(() => this.#redis.unlink(redisKey(key)));
  }

  async close(): Promise<void> {
    this.#redis.disconnect();
  }

  /** @throws storage_unavailable when the object goes before it is read to its end */
  async *#pieces(key: string, bytes: number): AsyncGenerator<Buffer> {
    for (let start = 0; start < bytes; start += pieceBytes) {
      const end = Math.min(start + pieceBytes, bytes);
      const piece = await this.#redis.getrangeBuffer(redisKey(key), start, end - 1);
      if (piece.length !== end - start) {
        const detail = 'The image went while it was read: it has expired, or was deleted.';
        throw new AppError('storage_unavailable', detail, { retryAfterSeconds: 1 });
      }
      yield piece;
    }
  }
}

/**
 * Runs a write. Other errors stay what they are.
 * @throws storage_unavailable when Redis refuses it, for want of memory or disk or as a replica
 */
async function orRefused<T>(write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (error) {
    const reason = error instanceof Error ? refusal(error) : undefined;
    if (reason === undefined) throw error;
    throw new AppError(
      'storage_unavailable',
      `Redis refuses to store images: ${reason}. Try again in a minute; its operator has to see to that.`,
      { cause: error, retryAfterSeconds },
    );
  }
}

const wholeSeconds = (ttlSeconds: number): number => Math.max(1, Math.ceil(ttlSeconds));

/** A view, not a copy: ioredis sends a Buffer as bytes but a Uint8Array as text. */
function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
