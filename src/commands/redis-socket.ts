/** Where the private Redis listens: a path that a unix socket can have, in a folder that is ours alone. */
import { createHash } from 'node:crypto';
import { lstatSync, mkdirSync, type Stats } from 'node:fs';
import path from 'node:path';
import { AppError } from '../errors.ts';

/** A unix socket's path may have 107 bytes on Linux (sun_path), 103 on macOS. */
const maxSocketPathBytes = 103;

/**
 * In the data folder, or, where that path is too long for a socket, in a folder of its own under /tmp, which is made.
 * @param folder of the private Redis: absolute, inside DATA_DIR
 * @throws not_ready when the folder under /tmp is not ours alone
 */
export function redisSocketPath(folder: string): string {
  const socket = path.join(folder, 'redis.sock');
  if (Buffer.byteLength(socket) <= maxSocketPathBytes) return socket;
  const name = createHash('sha256').update(folder).digest('hex').slice(0, 16);
  const uid = process.geteuid?.() ?? 0;
  const short = path.join('/tmp', `pisa-serve-${uid}-${name}`);
  makeFolder(short);
  const fault = faultOf(lstatSync(short), uid);
  if (fault !== undefined) {
    throw new AppError(
      'not_ready',
      `${socket} is too long a path for a socket (at most ${maxSocketPathBytes} bytes), and ${short}, which would hold the socket instead, ${fault}: somebody else could read and change all jobs. Remove it, or set DATA_DIR to a folder with a shorter path.`,
    );
  }
  return path.join(short, 'redis.sock');
}

/** One that is there already, of an earlier start or of somebody who knew its name, is looked at by the caller. */
function makeFolder(folder: string): void {
  try {
    mkdirSync(folder, { mode: 0o700 });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
  }
}

/**
 * Everybody may write to /tmp, but in a sticky folder nobody can replace what is ours.
 * @param stats not of what a link leads to
 */
function faultOf(stats: Stats, uid: number): string | undefined {
  if (!stats.isDirectory()) return 'is not a folder';
  if (stats.uid !== uid) return `belongs to user ${stats.uid}, not to user ${uid} that runs this`;
  const others = stats.mode & 0o077;
  if (others !== 0) return `is open to other users (mode ${(stats.mode & 0o777).toString(8)})`;
  return undefined;
}
