/** What goes wrong with the disk under a folder of images, in words for whoever set STORAGE. */
import { constants } from 'node:os';
import { AppError } from '../errors.ts';

const full = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);
/** Read-only, closed to us, broken or gone. */
const unusable = ['EROFS', 'EACCES', 'EPERM', 'EIO', 'ENXIO', 'ENODEV', 'ENOENT', 'ENOTDIR'];
/** What a mount says whose server is away, or has come back as another one. */
const away = [
  'ETIMEDOUT',
  'ESTALE',
  'ENOTCONN',
  'ECONNREFUSED',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'EHOSTDOWN',
  'EHOSTUNREACH',
  'ENETDOWN',
  'ENETUNREACH',
];
const outOfReach = new Set([...unusable, ...away]);
const noHandleLeft = new Set(['EMFILE', 'ENFILE']);
/** Somebody has to see to it: that takes longer than a server takes to come back. */
const retryAfterSeconds = 30;

/**
 * Runs an operation on the folder. Other errors stay what they are.
 * @throws storage_unavailable when the disk is full, read-only, closed to us, broken or out of reach
 */
export async function orDiskFault<T>(operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    const detail = explanation(nameOf(error as NodeJS.ErrnoException));
    if (detail === undefined) throw error;
    throw new AppError('storage_unavailable', detail, { cause: error, retryAfterSeconds });
  }
}

/** Some faults have no name in Node, EDQUOT and ESTALE among them: their numbers tell. */
function nameOf({ code = '', errno }: NodeJS.ErrnoException): string {
  if (errno === undefined || !code.startsWith('Unknown system error')) return code;
  const known = Object.entries(constants.errno).find(([, number]) => number === -errno);
  return known?.[0] ?? code;
}

function explanation(code: string): string | undefined {
  if (full.has(code)) {
    return `The folder of STORAGE is full (${code}), so nothing can be stored. Try again in a minute; its operator has to free space there or give it more.`;
  }
  if (outOfReach.has(code)) {
    return `The folder of STORAGE cannot be read or written (${code}). Try again in a minute; its operator has to see to its disk, mount and permissions.`;
  }
  if (noHandleLeft.has(code)) {
    return `No more files can be opened in the folder of STORAGE (${code}). Try again in a minute; its operator has to raise the limit of open files.`;
  }
  return undefined;
}
