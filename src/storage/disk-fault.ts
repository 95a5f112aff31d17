/** What goes wrong with the disk under a folder of images, in words for whoever set STORAGE. */
import { noSpaceCodes, systemErrorName, unusableCodes } from '../disk-errors.ts';
import { AppError } from '../errors.ts';

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
const outOfReach = new Set([...unusableCodes, ...away]);
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
    const detail = explanation(systemErrorName(error));
    if (detail === undefined) throw error;
    throw new AppError('storage_unavailable', detail, { cause: error, retryAfterSeconds });
  }
}

function explanation(code: string): string | undefined {
  if (noSpaceCodes.has(code)) {
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
