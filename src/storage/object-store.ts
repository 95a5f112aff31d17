/**
 * Where images live between api and worker. One interface; `openStore` picks by the STORAGE setting. A folder or a
 * bucket that cannot be used at the moment is `storage_unavailable`.
 */
import type { Readable } from 'node:stream';

/** An object that has expired is shown to nobody; the room that it takes is free again after this at most. */
export const longestSweepMs = 600_000;

export interface ObjectStore {
  /**
   * Writes atomically: a reader sees the whole object or none. Writing the same key again replaces it,
   * so a job that runs twice leaves one result.
   * @param ttlSeconds life of the object, counted from now
   */
  put(key: string, bytes: Uint8Array, ttlSeconds: number): Promise<void>;
  /** The object, or undefined when it never was, was deleted or has expired. */
  get(key: string): Promise<Buffer | undefined>;
  /**
   * The same in pieces, for who passes it on: memory holds a few of them, not the object. Whoever has it reads it to its
   * end or destroys it. It fails where the rest cannot be had.
   */
  stream(key: string): Promise<Readable | undefined>;
  /**
   * Puts the same bytes under a second key, as `put` would, without bringing them here.
   * @returns false when there was nothing to copy
   */
  copy(from: string, to: string, ttlSeconds: number): Promise<boolean>;
  /**
   * Gives an object another life, counted from now, and leaves its bytes where they are.
   * @returns false when it is not there
   */
  expire(key: string, ttlSeconds: number): Promise<boolean>;
  /** True while `get` would give the object. */
  has(key: string): Promise<boolean>;
  /** Deleting what is not there is no error. */
  delete(key: string): Promise<void>;
  /** Ends connections and timers. */
  close(): Promise<void>;
}

/**
 * Keys are made by us (`input/<uuid>`), never by a client. This holds even if that changes: no key leaves the
 * folder or the prefix of its store.
 * @returns the key
 */
export function checkKey(key: string): string {
  if (!/^[a-z]+\/[A-Za-z0-9-]{1,64}$/.test(key)) throw new Error(`Not a storage key: ${key}`);
  return key;
}

/** Fails only when all have been tried: none is deleted after the caller has heard of a fault. */
export async function deleteObjects(store: ObjectStore, keys: readonly string[]): Promise<void> {
  const deleted = await Promise.allSettled(keys.map((key) => store.delete(key)));
  const failed = deleted.find(({ status }) => status === 'rejected');
  if (failed?.status === 'rejected') throw failed.reason;
}
