/** Picks the object store by the STORAGE setting. Api, supervisor and device processes each open their own. */
import path from 'node:path';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { connectRedis, type RedisLimits, type RedisRole } from '../jobs/redis.ts';
import { FolderStore } from './folder-store.ts';
import type { ObjectStore } from './object-store.ts';
import { RedisStore } from './redis-store.ts';
import type { S3Location } from './s3-clients.ts';
import { S3Store } from './s3-store.ts';

/** All that a process needs to open the store; plain data, so that it can be sent to a device process. */
export type StoreLocation =
  | { kind: 'folder'; folder: string }
  | { kind: 'redis'; redisUrl: string }
  | { kind: 's3'; redisUrl: string; s3: S3Location };

/**
 * @param redisUrl of the queue: REDIS_URL, or the private Redis of `serve`
 * @param privateRedis true in `serve` without REDIS_URL: the default then is a folder beside Redis's own data
 * @throws invalid_config
 */
export function storeLocation(
  config: Pick<Config, 'STORAGE' | 'DATA_DIR' | S3Setting>,
  redisUrl: string,
  privateRedis = false,
): StoreLocation {
  if (config.STORAGE.startsWith('folder:')) {
    return { kind: 'folder', folder: path.resolve(config.STORAGE.slice('folder:'.length)) };
  }
  if (config.STORAGE === '' && privateRedis) {
    return { kind: 'folder', folder: path.join(config.DATA_DIR, 'objects') };
  }
  const [, bucket = '', prefix = ''] = /^s3:\/\/([^/]+)\/?(.*)$/.exec(config.STORAGE) ?? [];
  if (bucket !== '') {
    return { kind: 's3', redisUrl, s3: { bucket, prefix, ...s3Access(config) } };
  }
  return { kind: 'redis', redisUrl };
}

type S3Setting = 'S3_ENDPOINT' | 'S3_REGION' | 'S3_ACCESS_KEY_ID' | 'S3_SECRET_ACCESS_KEY';

function s3Access(config: Pick<Config, S3Setting>): Omit<S3Location, 'bucket' | 'prefix'> {
  const accessKeyId = config.S3_ACCESS_KEY_ID;
  const secretAccessKey = config.S3_SECRET_ACCESS_KEY;
  if ((accessKeyId === '') !== (secretAccessKey === '')) {
    throw new AppError(
      'invalid_config',
      'S3_ACCESS_KEY_ID and S3_SECRET_ACCESS_KEY go together: set both, or none.',
    );
  }
  return {
    region: config.S3_REGION,
    ...(config.S3_ENDPOINT === '' ? {} : { endpoint: config.S3_ENDPOINT }),
    ...(accessKeyId === '' ? {} : { credentials: { accessKeyId, secretAccessKey } }),
  };
}

/**
 * Redis says nothing while an image arrives, which takes a while over a slow network; and what the api stores goes through
 * one connection, so that an upload waits for all that are under way (UPLOADS_IN_FLIGHT_MEGABYTES).
 */
const transferLimits: Record<RedisRole, RedisLimits> = {
  producer: { commandTimeout: 120_000, socketTimeout: 30_000 },
  consumer: { socketTimeout: 300_000 },
};

export interface OpenStoreOptions {
  /** `producer` fails at once when Redis is away (the api), `consumer` waits for it (a device process). */
  role: RedisRole;
  /** Delete what has expired, from time to time. Default true; a device process leaves it to others. */
  sweep?: boolean;
  onError?: (error: unknown) => void;
}

export function openStore(location: StoreLocation, options: OpenStoreOptions): ObjectStore {
  const { role, sweep = true, onError = () => {} } = options;
  if (location.kind === 'folder') return new FolderStore(location.folder, { sweep, onError });
  // Of what is in a bucket Redis has the index only, and the api learns soon that it is away.
  const isIndex = location.kind === 's3' && role === 'producer';
  const limits = isIndex ? undefined : transferLimits[role];
  const redis = connectRedis(location.redisUrl, role, onError, limits);
  if (location.kind === 'redis') return new RedisStore(redis);
  return new S3Store(location.s3, { redis, role, sweep, onError });
}
