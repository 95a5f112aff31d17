/**
 * The Redis that `serve` runs for itself when REDIS_URL is not set: a child process with an append-only
 * file, reached through a unix socket in the data folder, so that no port is taken and nothing is exposed.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { AppError } from '../errors.ts';

export interface PrivateRedis {
  /** `unix:///…/redis.sock` */
  readonly url: string;
  /** Flushes the append-only file and ends the child. Resolves when it is gone. */
  stop(): Promise<void>;
}

/** A unix socket's path may have 107 bytes on Linux (sun_path), 103 on macOS. */
const maxSocketPathBytes = 103;
const startLimitMs = 20_000;
const restartDelayMs = 500;

/**
 * @param dataDir the socket, the append-only file and the pid file go into `dataDir/redis`
 * @throws not_ready when redis-server is missing, does not start, or another service uses the folder
 */
export async function startPrivateRedis(dataDir: string, logger: Logger): Promise<PrivateRedis> {
  const folder = path.join(path.resolve(dataDir), 'redis');
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const socket = socketPath(folder);
  requireRedisServer();
  if (await answers(socket)) {
    throw new AppError(
      'not_ready',
      `Another pisa-serve runs on the data folder ${dataDir}. Stop it, or set DATA_DIR to another folder.`,
    );
  }

  let stopping = false;
  let child = spawnRedis(folder, socket);
  const keepAlive = (exited: ChildProcess): void => {
    exited.once('exit', (code, signal) => {
      if (stopping) return;
      logger.error({ code, signal }, 'the private redis-server ended; starting it again');
      setTimeout(() => {
        if (stopping) return;
        child = spawnRedis(folder, socket);
        keepAlive(child);
      }, restartDelayMs);
    });
  };
  await untilReady(child, socket);
  keepAlive(child);

  return {
    url: `unix://${socket}`,
    stop: async () => {
      stopping = true;
      if (child.exitCode !== null || child.signalCode !== null) return;
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      await exited;
    },
  };
}

/** In the data folder, or, where that path is too long for a socket, in a folder of its own under /tmp. */
function socketPath(folder: string): string {
  const socket = path.join(folder, 'redis.sock');
  if (Buffer.byteLength(socket) <= maxSocketPathBytes) return socket;
  const name = createHash('sha256').update(folder).digest('hex').slice(0, 16);
  const short = path.join('/tmp', `pisa-serve-${process.getuid?.() ?? 0}-${name}`);
  mkdirSync(short, { recursive: true, mode: 0o700 });
  return path.join(short, 'redis.sock');
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

/**
 * The child has a process group of its own, so that Ctrl-C reaches the service first and jobs can still be
 * handed back. `setpriv --pdeathsig` (util-linux) ends it even when the service is killed outright.
 */
function spawnRedis(folder: string, socket: string): ChildProcess {
  const redis = [
    'redis-server',
    ...['--port', '0', '--unixsocket', socket, '--unixsocketperm', '700', '--dir', folder],
    ...['--appendonly', 'yes', '--appendfsync', 'everysec', '--save', ''],
    ...['--maxmemory-policy', 'noeviction', '--daemonize', 'no', '--loglevel', 'warning'],
  ];
  const tied = spawnSync('setpriv', ['--pdeathsig', 'keep', 'true']).status === 0;
  const [command = '', ...args] = tied ? ['setpriv', '--pdeathsig', 'TERM', ...redis] : redis;
  return spawn(command, args, { detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
}

async function untilReady(child: ChildProcess, socket: string): Promise<void> {
  let output = '';
  const collect = (chunk: Buffer): void => {
    output = (output + chunk.toString()).slice(-2000);
  };
  child.stdout?.on('data', collect);
  child.stderr?.on('data', collect);
  const deadline = Date.now() + startLimitMs;
  while (child.exitCode === null && Date.now() < deadline) {
    if (await answers(socket)) return;
    await delay(20);
  }
  child.kill('SIGKILL');
  throw new AppError(
    'not_ready',
    `The private redis-server did not start. Its last words: ${output.trim() || '(none)'}`,
  );
}

/** True when a Redis that has loaded its data answers on the socket. */
async function answers(socket: string): Promise<boolean> {
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
    return (await client.ping()) === 'PONG';
  } catch {
    return false;
  } finally {
    client.disconnect();
  }
}
