/** A `redis-server` child: how it is started, what it says, and how it ended. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import type { Logger } from 'pino';
import { within } from '../waits.ts';
import { endWithUs } from './end-with-us.ts';

/** How it ended; `err`: it could not be started. */
type RedisEnd = { code: number | null; signal: NodeJS.Signals | null } | { err: unknown };

export interface RedisProcess {
  /** Absent when there was not even a process. */
  readonly child?: ChildProcess;
  readonly startedAtMs: number;
  /** Resolves when it is gone and its last words are read. Never rejects. */
  readonly ended: Promise<RedisEnd>;
  /** What it said last. */
  readonly lastLines: readonly string[];
}

const keptLines = 20;
/** A process that Redis had forked may hold the pipes open for longer. */
const lastWordsLimitMs = 200;
/** Its mark of a warning, before the text. */
const warning = /^\d+:\w .* # (.+)$/;
/**
 * Said at every start and stop, with the mark of a warning before Redis 7.2; and advice on the kernel of a server for data
 * larger than half of its memory, which would be the first thing that somebody reads who just starts the service.
 */
const banter =
  /^(WARNING Memory overcommit|oO0OoO|Redis version=|Configuration loaded|Server initialized|User requested shutdown|Redis is now ready to exit)/;

/**
 * The child has a process group of its own, so that Ctrl-C reaches the service first and jobs can still be
 * handed back. It ends with this process, even one that is killed outright.
 */
export function startRedisProcess(folder: string, socket: string, logger: Logger): RedisProcess {
  const args = [
    ...['--port', '0', '--unixsocket', socket, '--unixsocketperm', '700', '--dir', folder],
    ...['--appendonly', 'yes', '--appendfsync', 'everysec', '--save', ''],
    ...['--maxmemory-policy', 'noeviction', '--daemonize', 'no', '--loglevel', 'warning'],
  ];
  const startedAtMs = Date.now();
  try {
    const child = spawn('redis-server', args, {
      detached: true,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    return {
      child,
      startedAtMs,
      ended: endOf(child, endWithUs(child)),
      lastLines: readLines(child, logger),
    };
  } catch (err) {
    // Without memory or file handles for another process.
    return { startedAtMs, ended: Promise.resolve({ err }), lastLines: [] };
  }
}

async function endOf(child: ChildProcess, endWatch: () => Promise<void>): Promise<RedisEnd> {
  const closed = once(child, 'close').catch(() => {});
  const end = await new Promise<RedisEnd>((resolve) => {
    child.on('error', (err) => resolve({ err }));
    child.once('exit', (code, signal) => resolve({ code, signal }));
  });
  await endWatch();
  await within(closed, lastWordsLimitMs);
  return end;
}

/**
 * Reads for as long as the child lives: a pipe that nobody reads fills up, and then Redis stands still.
 * @returns the last lines, as they come
 */
function readLines(child: ChildProcess, logger: Logger): readonly string[] {
  const lastLines: string[] = [];
  for (const input of [child.stdout, child.stderr]) {
    if (!input) continue;
    createInterface({ input }).on('line', (line) => {
      lastLines.push(line);
      if (lastLines.length > keptLines) lastLines.shift();
      const [, text] = warning.exec(line) ?? [];
      if (text && !banter.test(text))
        logger.warn({ redis: text }, 'the private redis-server warns');
    });
  }
  return lastLines;
}
