/** Picks the object store by the STORAGE setting. Api, supervisor and device processes each open their own. */
import path from 'node:path';
import type { Config } from '../config.ts';
import { connectRedis, type RedisRole } from '../jobs/redis.ts';
import { FolderStore } from './folder-store.ts';
import type { ObjectStore } from './object-store.ts';
import { RedisStore } from './redis-store.ts';

/** All that a process needs to open the store; plain data, so that it can be sent to a device process. */
export type StoreLocation =
  | { kind: 'folder'; folder: string }
  | { kind: 'redis'; redisUrl: string };

/**
 * @param redisUrl of the queue: REDIS_URL, or the private Redis of `serve`
 * @param privateRedis true in `serve` without REDIS_URL: the default then is a folder beside Redis's own data
 */
export function storeLocation(
  config: Pick<Config, 'STORAGE' | 'DATA_DIR'>,
  redisUrl: string,
  privateRedis = false,
): StoreLocation {
  if (config.STORAGE.startsWith('folder:')) {
    return { kind: 'folder', folder: path.resolve(config.STORAGE.slice('folder:'.length)) };
  }
  if (config.STORAGE === '' && privateRedis) {
    return { kind: 'folder', folder: path.join(config.DATA_DIR, 'objects') };
  }
  return { kind: 'redis', redisUrl };
}

export interface OpenStoreOptions {
  /** `producer` fails at once when Redis is away (the api), `consumer` waits for it (a device process). */
  role: RedisRole;
  /** Delete what has expired, from time to time. Default true; a device process leaves it to others. */
  sweep?: boolean;
  onError?: (error: unknown) => void;
}

export function openStore(location: StoreLocation, options: OpenStoreOptions): ObjectStore {
  const { role, sweep = true, onError = () => {} } = options;
  return location.kind === 'folder'
    ? new FolderStore(location.folder, { sweep, onError })
    : new RedisStore(connectRedis(location.redisUrl, role, onError));
}
