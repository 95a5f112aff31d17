/**
 * The object store as one run uses it. Once the run is told to stop it begins no write, and what it is writing then can
 * be waited for: nothing of a job appears after its end, when whoever hears of it has tidied up.
 */
import type { ObjectStore } from '../../storage/object-store.ts';

/** What a run does with the store. */
export type JobStore = Pick<ObjectStore, 'put' | 'expire' | 'get' | 'has'>;

export class RunStore implements JobStore {
  readonly #store: JobStore;
  readonly #signal: AbortSignal;
  readonly #writes = new Set<Promise<unknown>>();

  constructor(store: JobStore, signal: AbortSignal) {
    this.#store = store;
    this.#signal = signal;
  }

  /** @throws the signal's reason, or what the store throws */
  put(key: string, bytes: Uint8Array, ttlSeconds: number): Promise<void> {
    return this.#write(() => this.#store.put(key, bytes, ttlSeconds));
  }

  /** In S3 it writes the object anew. @throws the signal's reason, or what the store throws */
  expire(key: string, ttlSeconds: number): Promise<boolean> {
    return this.#write(() => this.#store.expire(key, ttlSeconds));
  }

  get(key: string): Promise<Buffer | undefined> {
    return this.#store.get(key);
  }

  has(key: string): Promise<boolean> {
    return this.#store.has(key);
  }

  /** Resolves when nothing is being written, whatever became of it. */
  async written(): Promise<void> {
    await Promise.allSettled(this.#writes);
  }

  async #write<T>(begin: () => Promise<T>): Promise<T> {
    this.#signal.throwIfAborted();
    const write = begin();
    this.#writes.add(write);
    try {
      return await write;
    } finally {
      this.#writes.delete(write);
    }
  }
}
