/**
 * How each role connects to Redis. A producer (the api) would rather fail at once than hold a request; a
 * consumer (the supervisor, event streams) waits for Redis to come back, however long that takes.
 */
import { type Callback, Redis } from 'ioredis';
import { AppError } from '../errors.ts';

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

/** What the service does needs these rules of Redis's ACL (docs/operations.md). */
const neededRules = '~bull:* ~pisa:* &pisa:* +@all -@dangerous';

/**
 * Tries one command for each thing that Redis can forbid a user: keys, the channel, scripts; and whether it takes writes.
 * @throws what Redis says
 */
export async function tryOut(redis: Redis): Promise<void> {
  const answers = await redis
    .pipeline()
    .set('pisa:probe', '1', 'EX', 60)
    .exists('bull:probe')
    .publish('pisa:probe', '')
    .eval('return 1', 0)
    .exec();
  const errors = (answers ?? []).flatMap(([error]) => error ?? []);
  // A Redis that is full may have more room in a minute; what it forbids it will still forbid.
  const [first] = errors;
  if (first) throw errors.find((error) => forbidden(error) !== undefined) ?? first;
}

/**
 * What a start must not go on without.
 * @throws invalid_config when Redis has no such database, or forbids its user what the service does
 */
export async function checkRedis(redis: Redis): Promise<void> {
  await checkDatabase(redis);
  try {
    await tryOut(redis);
  } catch (error) {
    if (error instanceof Error && refusal(error) !== undefined) return;
    throw explainForbidden(error);
  }
}

/** @returns the error; one of what Redis forbids, in words for its operator */
export function explainForbidden(error: unknown): unknown {
  const rule = forbidden(error);
  if (rule === undefined) return error;
  return new AppError(
    'invalid_config',
    `Redis forbids the user of REDIS_URL what the service does: ${rule}. It needs the rules ${neededRules} (docs/operations.md).`,
    { cause: error },
  );
}

/**
 * ioredis goes on in database 0 when Redis refuses the one that was asked for: two services would share a queue.
 * @throws invalid_config when Redis has no such database
 */
async function checkDatabase(redis: Redis): Promise<void> {
  const { db = 0 } = redis.options;
  if (db === 0) return;
  try {
    await redis.select(db);
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'ReplyError') throw error;
    throw new AppError(
      'invalid_config',
      `Redis refuses database ${db} of REDIS_URL: ${error.message}.`,
      { cause: error },
    );
  }
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

const connectionErrorNames = new Set(['MaxRetriesPerRequestError', 'AbortError', 'ReplyError']);
const connectionErrorText =
  /connection is closed|stream isn't writeable|command timed out|ECONN|EPIPE|ENOENT|ETIMEDOUT|EHOSTUNREACH|ENOTFOUND|EAI_AGAIN/i;

/**
 * Its disk or memory is full, or it is a replica. A script ends with the same text, in older versions amid its own; what
 * follows the first sentence is advice for whoever set Redis up.
 */
const refusedWrite = /\b(?:MISCONF|OOM|READONLY) (.+?)(?:\.?\s*$|\.\s| script: )/;

/** True when Redis refuses a write because its disk or memory is full. */
export const isFull = (error: unknown): boolean =>
  textsOf(error).some((text) => /\b(?:MISCONF|OOM) /.test(text));

/** What Redis says. A transaction has its reason in the errors of its commands. */
function textsOf(error: unknown): string[] {
  if (!(error instanceof Error)) return [];
  const { previousErrors = [] } = error as { previousErrors?: Error[] };
  return [error, ...previousErrors].map(({ message }) => message);
}

/** What its ACL forbids, in its own words. */
const forbidden = (error: unknown): string | undefined =>
  textsOf(error).find((text) => text.startsWith('NOPERM '));

/**
 * Runs a Redis operation of the api.
 * @throws redis_unavailable when Redis is away (or is loading its data), refuses writes or forbids it
 */
export async function orUnavailable<T>(operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    if (!isRedisFault(error)) throw error;
    const rule = forbidden(error);
    const reason = rule ?? refusal(error);
    if (reason === undefined) {
      throw new AppError(
        'redis_unavailable',
        'The queue cannot be reached at the moment. Try again in a few seconds.',
        { cause: error, retryAfterSeconds: 5 },
      );
    }
    throw new AppError(
      'redis_unavailable',
      `Redis ${rule === undefined ? 'refuses writes' : 'forbids what this takes'}: ${reason}. Try again in a minute; its operator has to see to that.`,
      { cause: error, retryAfterSeconds: 30 },
    );
  }
}

/** Why Redis refused to write, in its own words. */
export function refusal(error: Error): string | undefined {
  return textsOf(error)
    .map((text) => refusedWrite.exec(text)?.[1])
    .find((reason) => reason !== undefined);
}

function isRedisFault(error: unknown): error is Error {
  if (!(error instanceof Error) || error instanceof AppError) return false;
  return connectionErrorNames.has(error.name) || connectionErrorText.test(error.message);
}
