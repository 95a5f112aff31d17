/** One process at a time, also across machines that share a folder: a folder is the lock, its age says if it is held. */
import { randomUUID } from 'node:crypto';
import { mkdir, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const touchMs = 5000;
/** Whoever has not touched his lock for this long is gone. */
const staleMs = 60_000;
const lookMs = 500;

interface Owner {
  host: string;
  pid: number;
}

/**
 * Runs `work` while no other process holds the lock. The lock of a process that was killed does not last.
 * @param folder the lock; its parent exists
 * @param onWait called once if another process holds it
 */
export async function withLock<T>(
  folder: string,
  onWait: () => void,
  work: () => Promise<T>,
): Promise<T> {
  let waits = false;
  while (!(await take(folder))) {
    if (await isStale(folder)) {
      // Of several who see it, one renames it.
      const aside = `${folder}.${randomUUID()}`;
      await rename(folder, aside).catch(() => {});
      await rm(aside, { recursive: true, force: true });
      continue;
    }
    if (!waits) onWait();
    waits = true;
    await sleep(lookMs);
  }
  const timer = setInterval(() => {
    utimes(folder, new Date(), new Date()).catch(() => {});
  }, touchMs);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    await rm(folder, { recursive: true, force: true });
  }
}

async function take(folder: string): Promise<boolean> {
  try {
    await mkdir(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
  const owner: Owner = { host: hostname(), pid: process.pid };
  await writeFile(path.join(folder, 'owner'), JSON.stringify(owner));
  return true;
}

async function isStale(folder: string): Promise<boolean> {
  const facts = await stat(folder).catch(() => undefined);
  if (!facts) return false;
  if (Date.now() - facts.mtimeMs > staleMs) return true;
  const text = await readFile(path.join(folder, 'owner'), 'utf8').catch(() => '');
  const { host, pid } = (text === '' ? {} : JSON.parse(text)) as Partial<Owner>;
  if (host !== hostname() || pid === undefined) return false;
  // Our own number in a lock that we do not hold is that of somebody before us in this container.
  return pid === process.pid || !isAlive(pid);
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
