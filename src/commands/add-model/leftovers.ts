/**
 * What lies beside a bundle under hidden names while it is added, replaced or removed, and what becomes of it when the
 * process was killed meanwhile.
 */
import { randomUUID } from 'node:crypto';
import { readdir, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { withFreeLock } from './lock.ts';

/** A bundle and all that lies beside it. */
export interface Place {
  readonly modelsDir: string;
  /** Of the bundle. */
  readonly name: string;
}

export const lockOf = ({ modelsDir, name }: Place): string => path.join(modelsDir, `.${name}.lock`);

/** In which the bundle is made; one level above it, so that nobody who lists bundles sees it. */
export const partialFolder = ({ modelsDir, name }: Place): string =>
  path.join(modelsDir, `.${name}.partial`);

/** The old bundle, until the new one is in its place. */
export const replacedFolder = (place: Place): string => path.join(partialFolder(place), 'replaced');

const removedPrefix = ({ name }: Place): string => `.${name}.removed-`;

/** Gone at once under its name: a process that is killed while it deletes leaves nothing that looks whole. */
export async function discard(folder: string, place: Place): Promise<void> {
  const aside = path.join(place.modelsDir, removedPrefix(place) + randomUUID());
  await rename(folder, aside);
  // Another one may sweep it meanwhile.
  await rm(aside, { recursive: true, force: true });
}

/** Deletes what killed processes have discarded. Needs no lock: nobody goes on with any of it. */
export async function sweepDiscarded(place: Place): Promise<void> {
  for (const name of await readdir(place.modelsDir).catch(() => [])) {
    if (!name.startsWith(removedPrefix(place))) continue;
    await rm(path.join(place.modelsDir, name), { recursive: true, force: true });
  }
}

/**
 * Puts the old bundle back where a process was killed between taking it away and putting the new one in its place. For the
 * holder of the lock.
 * @returns true when it did
 */
export async function putBack(place: Place): Promise<boolean> {
  const target = path.join(place.modelsDir, place.name);
  const replaced = replacedFolder(place);
  const isLost = !(await exists(target)) && (await exists(path.join(replaced, 'manifest.json')));
  if (isLost) await rename(replaced, target);
  return isLost;
}

/** Deletes what is of no use beside a bundle that is whole, or is to go, unless another process is at work there. */
export async function tidy(place: Place): Promise<void> {
  const partial = partialFolder(place);
  if (await exists(partial)) {
    await withFreeLock(lockOf(place), async () => {
      await putBack(place);
      if (await exists(partial)) await discard(partial, place);
    });
  }
  await sweepDiscarded(place);
}

const exists = (file: string): Promise<boolean> =>
  stat(file).then(
    () => true,
    () => false,
  );
