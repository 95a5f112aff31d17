/**
 * How each role connects to Redis. A producer (the api) would rather fail at once than hold a request; a
 * consumer (the supervisor, event streams) waits for Redis to come back, however long that takes.
 */
import { type Callback, Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import { forbidden } from './redis-faults.ts';

export type RedisRole = 'producer' | 'consumer';

/** The part of ioredis's options that we use, which BullMQ's own type takes as well. */
export interface RedisConnectionOptions extends RedisAddress, RedisLimits {
  maxRetriesPerRequest: number | null;
  retryStrategy: (times: number) => number;
  enableOfflineQueue?: boolean;
  keepAlive: number;
  reconnectOnError: (error: Error) => boolean;
}

interface RedisAddress {
  /** Unix socket. */
  path?: string;
  host?: string;
  port?: number;
  db: number;
  username?: string;
  password?: string;
  tls?: { servername: string };
}

/** In milliseconds. */
export interface RedisLimits {
  /** For one command and all that was sent before it. Absent: none. */
  commandTimeout?: number;
  /**
   * A connection that says nothing for so long while it owes an answer is dead, although its other end may not have told
   * (a lost node, a firewall that forgot it): it is given up for a new one.
   */
  socketTimeout: number;
}

const usualLimits: Record<RedisRole, RedisLimits> = {
  /** Longer than any Redis command takes, short enough for a client that waits for its 202. */
  producer: { commandTimeout: 5000, socketTimeout: 6000 },
  /** Its commands may block for ten seconds. */
  consumer: { socketTimeout: 30_000 },
};
/** After so much silence on a connection that owes nothing, such as a subscriber's, TCP asks whether it is still there. */
const keepAliveMs = 15_000;
/** What a primary answers that has become a replica: the address leads to another one by now, if anybody takes writes. */
const noLongerPrimary = /\b(?:READONLY|UNBLOCKED)\b/;

/**
 * @param url redis://[user:password@]host[:port][/db], the same with rediss:// (TLS), or unix:///path[?db=n]
 * @param limits for what takes longer than is usual in its role
 * @throws invalid_config when `url` is none of these
 */
export function redisOptions(
  url: string,
  role: RedisRole,
  limits = usualLimits[role],
): RedisConnectionOptions {
  return {
    ...address(url),
    // Exponential, capped: a Redis that restarts is found again within a second or two.
    retryStrategy: (times: number) => Math.min(50 * 2 ** Math.min(times, 10), 2000),
    ...limits,
    keepAlive: keepAliveMs,
    reconnectOnError: ({ message }) => noLongerPrimary.test(message),
    ...(role === 'producer'
      ? { enableOfflineQueue: false, maxRetriesPerRequest: 1 }
      : { maxRetriesPerRequest: null }),
  };
}

function address(url: string): RedisAddress {
  if (!URL.canParse(url)) throw notAnAddress();
  const parsed = new URL(url);
  if (parsed.protocol === 'unix:') {
    return { path: decoded(parsed.pathname), db: database(parsed.searchParams.get('db') ?? '') };
  }
  if (parsed.protocol !== 'redis:' && parsed.protocol !== 'rediss:') {
    throw new AppError(
      'invalid_config',
      `REDIS_URL must start with redis://, rediss:// or unix://, not ${parsed.protocol}`,
    );
  }
  return {
    host: parsed.hostname.replace(/^\[(.*)\]$/, '$1') || '127.0.0.1',
    port: Number(parsed.port || 6379),
    db: database(parsed.pathname.slice(1)),
    ...(parsed.username ? { username: decoded(parsed.username) } : {}),
    ...(parsed.password ? { password: decoded(parsed.password) } : {}),
    ...(parsed.protocol === 'rediss:' ? { tls: { servername: parsed.hostname } } : {}),
  };
}

const notAnAddress = (): AppError =>
  new AppError(
    'invalid_config',
    'REDIS_URL is not an address. Expected redis://[user:password@]host[:port][/db], with what is special in the password percent-encoded.',
  );

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    throw notAnAddress();
  }
}

function database(text: string): number {
  if (/^\d{0,9}$/.test(text)) return Number(text);
  throw new AppError(
    'invalid_config',
    `Expected the database at the end of REDIS_URL to be a number but received "${text}".`,
  );
}

/** The oldest Redis that we run on: what is assumed of one that must not be asked. */
const oldestVersion = 'redis_version:6.2.0';

/**
 * A Redis whose user may be forbidden INFO, as by `-@dangerous`. ioredis and BullMQ ask each connection with it which Redis
 * this is and whether it has loaded its data.
 */
export class TolerantRedis extends Redis {
  override async info(...args: unknown[]): Promise<string> {
    const callback = args.at(-1);
    const isCallback = typeof callback === 'function';
    const sections = (isCallback ? args.slice(0, -1) : args) as string[];
    const told = super.info(...sections).catch((error: unknown) => {
      if (forbidden(error) === undefined) throw error;
      return oldestVersion;
    });
    if (isCallback) told.then((text) => callback(null, text), callback as Callback<string>);
    return told;
  }
}

/**
 * A connection whose errors do not end the process: ioredis reconnects by itself, and what failed meanwhile
 * reaches the caller as a rejected command.
 * @param onError told of each connection error, for the log
 */
export function connectRedis(
  url: string,
  role: RedisRole,
  onError: (error: Error) => void = () => {},
  limits?: RedisLimits,
): Redis {
  const redis = new TolerantRedis(redisOptions(url, role, limits));
  redis.on('error', onError);
  return redis;
}
