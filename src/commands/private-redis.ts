/**
 * The Redis that `serve` runs for itself when REDIS_URL is not set: a child process with an append-only
 * file, reached through a unix socket in the data folder, so that no port is taken and nothing is exposed.
 */
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { AppError } from '../errors.ts';
import { RestartDelay } from '../worker/restart-delay.ts';
import { type RedisProcess, startRedisProcess } from './redis-process.ts';
import { redisSocketPath } from './redis-socket.ts';

export interface PrivateRedis {
  /** `unix:///…/redis.sock` */
  readonly url: string;
  /** Flushes the append-only file and ends the child. Resolves when it is gone. */
  stop(): Promise<void>;
}

const startLimitMs = 20_000;
const firstRestartDelayMs = 500;

function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true, mode: 0o700 });
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    const detail = `Cannot make the folder ${folder} (${code}). Set DATA_DIR to a folder that you may write to.`;
    throw new AppError('not_ready', detail, { cause });
  }
}

/**
 * @param dataDir the socket, the append-only file and the pid file go into `dataDir/redis`
 * @throws not_ready when redis-server is missing, does not start, the folder cannot be made, another service uses it,
 *   or the folder of its socket is not ours alone
 */
export async function startPrivateRedis(dataDir: string, logger: Logger): Promise<PrivateRedis> {
  const folder = path.join(path.resolve(dataDir), 'redis');
  makeFolder(folder);
  const socket = redisSocketPath(folder);
  requireRedisServer();
  const other = await processBehind(socket);
  if (other !== undefined) {
    throw new AppError(
      'not_ready',
      `Another pisa-serve runs on the data folder ${dataDir}. Stop it, or set DATA_DIR to another folder. If there is none, one has left its redis-server behind: end that, process ${other}.`,
    );
  }

  const stopping = new AbortController();
  let redis = startRedisProcess(folder, socket, logger);
  await untilReady(redis, socket);

  const keepAlive = async (): Promise<void> => {
    const delays = new RestartDelay(firstRestartDelayMs);
    for (;;) {
      const end = await redis.ended;
      if (stopping.signal.aborted) return;
      const againInMs = delays.next(true, Date.now() - redis.startedAtMs);
      const { lastLines } = redis;
      logger.error(
        { ...end, lastLines, againInMs },
        'the private redis-server ended; starting it again',
      );
      await delay(againInMs, undefined, { signal: stopping.signal }).catch(() => {});
      if (stopping.signal.aborted) return;
      redis = startRedisProcess(folder, socket, logger);
    }
  };
  void keepAlive();

  return {
    url: `unix://${socket}`,
    stop: async () => {
      stopping.abort();
      redis.child?.kill('SIGTERM');
      await redis.ended;
    },
  };
}

function requireRedisServer(): void {
  const probe = spawnSync('redis-server', ['--version']);
  if (probe.error) {
    throw new AppError(
      'not_ready',
      'redis-server is not installed. Install it (Debian, Ubuntu: apt install redis-server; macOS: brew install redis), or set REDIS_URL to a Redis of your own.',
    );
  }
}

async function untilReady(redis: RedisProcess, socket: string): Promise<void> {
  let isOver = false;
  void redis.ended.then(() => {
    isOver = true;
  });
  const deadline = Date.now() + startLimitMs;
  while (!isOver && Date.now() < deadline) {
    if (await answers(socket)) return;
    await delay(20);
  }
  redis.child?.kill('SIGKILL');
  const end = await redis.ended;
  const cause = 'err' in end ? { cause: end.err } : {};
  const lastWords = redis.lastLines.join('\n').slice(-2000).trim();
  throw new AppError(
    'not_ready',
    `The private redis-server did not start. Its last words: ${lastWords || '(none)'}`,
    cause,
  );
}

const answers = async (socket: string): Promise<boolean> =>
  (await ask(socket, (client) => client.ping())) === 'PONG';

/** @returns the process id of the Redis on the socket; undefined when there is none */
async function processBehind(socket: string): Promise<string | undefined> {
  const info = await ask(socket, (client) => client.info('server'));
  return info === undefined ? undefined : (/process_id:(\d+)/.exec(info)?.[1] ?? '(unknown)');
}

/**
 * Asks a Redis, once it has loaded its data.
 * @returns undefined when nobody listens on the socket, or the answer is an error
 */
async function ask<T>(
  socket: string,
  question: (client: Redis) => Promise<T>,
): Promise<T | undefined> {
  const client = new Redis({
    path: socket,
    lazyConnect: true,
    retryStrategy: () => null,
    connectTimeout: 1000,
    maxRetriesPerRequest: 0,
  });
  client.on('error', () => {});
  try {
    await client.connect();
    return await question(client);
  } catch {
    return undefined;
  } finally {
    client.disconnect();
  }
}
