/** Which errors of the system are those of a disk: for every place that writes files and tells why it could not. */
import { constants } from 'node:os';

/** No room is left, or none that we may take. */
export const noSpaceCodes: ReadonlySet<string> = new Set(['ENOSPC', 'EDQUOT', 'EFBIG']);

/** Read-only, closed to us, broken or gone. */
export const unusableCodes: ReadonlySet<string> = new Set([
  'EROFS',
  'EACCES',
  'EPERM',
  'EIO',
  'ENXIO',
  'ENODEV',
  'ENOENT',
  'ENOTDIR',
]);

/**
 * The name of a system error, such as ENOSPC; '' for any other error. Some have none in Node, EDQUOT and ESTALE among
 * them: their numbers tell.
 */
export function systemErrorName(error: unknown): string {
  const { code, errno } = (error ?? {}) as NodeJS.ErrnoException;
  if (typeof code !== 'string') return '';
  if (errno === undefined || !code.startsWith('Unknown system error')) return code;
  const known = Object.entries(constants.errno).find(([, number]) => number === -errno);
  return known?.[0] ?? code;
}
