/** The temporary folder (TMPDIR), in which a job may need room, and what is said where it has none. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { noSpaceCodes, systemErrorName, unusableCodes } from '../disk-errors.ts';
import { AppError } from '../errors.ts';

/**
 * Gives `work` a folder of its own, which is gone when it ends.
 * @param need as of `orDiskFull`
 * @throws disk_full
 */
export function inTemporaryFolder<T>(
  prefix: string,
  need: string,
  work: (folder: string) => Promise<T>,
): Promise<T> {
  return orDiskFull(need, async () => {
    const folder = await mkdtemp(path.join(tmpdir(), prefix));
    try {
      return await work(folder);
    } finally {
      await rm(folder, { recursive: true, force: true });
    }
  });
}

/**
 * Runs what writes temporary data. Other errors stay what they are.
 * @param need what needs the data, after "which", and what needs less, as a sentence
 * @throws disk_full when the folder is full, cannot be written or is not there
 */
export async function orDiskFull<T>(need: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    const name = systemErrorName(error);
    if (!noSpaceCodes.has(name) && !unusableCodes.has(name)) throw error;
    throw new AppError(
      'disk_full',
      `The worker could not write temporary data to ${tmpdir()} (${name}), which ${need} Its operator can free space there, or set TMPDIR to a writable folder with more.`,
      { cause: error },
    );
  }
}
