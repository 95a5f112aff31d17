/** What goes wrong with the disk under a folder of images, in words for whoever set STORAGE. */
import { AppError } from '../errors.ts';

const full = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);
const unusable = new Set(['EROFS', 'EACCES', 'EPERM', 'EIO']);
/** Somebody has to see to it: that takes longer than a server takes to come back. */
const retryAfterSeconds = 30;

/**
 * Runs an operation on the folder. Other errors stay what they are.
 * @throws storage_unavailable when the disk is full, read-only, closed to us or broken
 */
export async function orDiskFault<T>(operation: () => Promise<T>): Promise<T> {
  try {
    return await operation();
  } catch (error) {
    const detail = explanation((error as NodeJS.ErrnoException).code ?? '');
    if (detail === undefined) throw error;
    throw new AppError('storage_unavailable', detail, { cause: error, retryAfterSeconds });
  }
}

function explanation(code: string): string | undefined {
  if (full.has(code)) {
    return `The folder of STORAGE is full (${code}), so nothing can be stored. Try again in a minute; its operator has to free space there or give it more.`;
  }
  if (unusable.has(code)) {
    return `The folder of STORAGE cannot be read or written (${code}). Try again in a minute; its operator has to see to its disk, mount and permissions.`;
  }
  return undefined;
}
