/**
 * One process at a time, also across machines that share a folder. The lock is a folder that holds a file named after
 * its holder alone: a folder takes the place of an empty one only, so of several who take the lock one gets it; and
 * whoever removes the file of a holder that is gone removes no other's, however late he does.
 */
import { randomUUID } from 'node:crypto';
import {
  mkdir,
  readdir,
  readFile,
  rename,
  rm,
  rmdir,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

const touchMs = 5000;
/** Whoever has not touched his lock for this long is gone. */
const staleMs = 60_000;
const lookMs = 500;
/** From making a folder to writing into it. */
const beingTakenMs = 2000;

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
  const name = randomUUID();
  let waits = false;
  while (!(await takeIfFree(folder, name))) {
    if (!waits) onWait();
    waits = true;
    await sleep(lookMs);
  }
  return holding(folder, name, work);
}

/** As `withLock`, but does nothing where another process holds it. */
export async function withFreeLock(folder: string, work: () => Promise<void>): Promise<void> {
  const name = randomUUID();
  if (await takeIfFree(folder, name)) await holding(folder, name, work);
}

async function holding<T>(folder: string, name: string, work: () => Promise<T>): Promise<T> {
  const timer = setInterval(() => {
    utimes(folder, new Date(), new Date()).catch(() => {});
  }, touchMs);
  try {
    return await work();
  } finally {
    clearInterval(timer);
    await free(folder, name);
  }
}

/** @returns false when somebody holds it */
async function takeIfFree(folder: string, name: string): Promise<boolean> {
  while (!(await take(folder, name))) {
    if (!(await freeIfGone(folder))) return false;
  }
  return true;
}

/** @returns false when somebody holds it, or has gone with it */
async function take(folder: string, name: string): Promise<boolean> {
  if ((await holderOf(folder)) !== undefined || (await isBeingTaken(folder))) return false;
  const owner: Owner = { host: hostname(), pid: process.pid };
  const made = `${folder}.${name}`;
  try {
    await mkdir(made);
    await writeFile(path.join(made, name), JSON.stringify(owner));
    await rename(made, folder);
    return true;
  } catch (error) {
    await rm(made, { recursive: true, force: true }).catch(() => {});
    const { code } = error as NodeJS.ErrnoException;
    // POSIX lets rename say either of a folder that is not empty.
    if (code === 'ENOTEMPTY' || code === 'EEXIST') return false;
    throw error;
  }
}

/** The name of the file that says who holds the lock. */
async function holderOf(folder: string): Promise<string | undefined> {
  try {
    return (await readdir(folder))[0];
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/** @returns true when it may be had now */
async function freeIfGone(folder: string): Promise<boolean> {
  const holder = await holderOf(folder);
  const isHeld =
    holder === undefined ? await isBeingTaken(folder) : !(await isStale(folder, holder));
  if (isHeld) return false;
  await free(folder, holder);
  return true;
}

/** Where another has it by now, it stays his. */
async function free(folder: string, holder?: string): Promise<void> {
  if (holder !== undefined) await rm(path.join(folder, holder), { force: true });
  await rmdir(folder).catch(() => {});
}

/** By the age of the folder, asked for after its holder was: it is his, or that of a later one, whose file stays. */
async function isStale(folder: string, holder: string): Promise<boolean> {
  const facts = await stat(folder).catch(() => undefined);
  if (!facts) return false;
  if (Date.now() - facts.mtimeMs > staleMs) return true;
  const text = await readFile(path.join(folder, holder), 'utf8').catch(() => '');
  const { host, pid } = parseOwner(text);
  if (host !== hostname() || pid === undefined) return false;
  // Our own number in a lock that we do not hold is that of somebody before us in this container.
  return pid === process.pid || !isAlive(pid);
}

/** Up to version 0.5 the folder was made first, empty, and then said whose it is. */
async function isBeingTaken(folder: string): Promise<boolean> {
  const facts = await stat(folder).catch(() => undefined);
  return facts !== undefined && Date.now() - facts.mtimeMs < beingTakenMs;
}

/** What a machine that went down left may be anything; then the age decides. */
function parseOwner(text: string): Partial<Owner> {
  try {
    return JSON.parse(text) as Owner;
  } catch {
    return {};
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
