/**
 * Images in a folder: the default of one machine, or a volume that api and workers share. A file's
 * modification time is the moment when it expires, so that one `stat` tells and no index is needed.
 */
import { randomUUID } from 'node:crypto';
import {
  copyFile,
  type FileHandle,
  mkdir,
  open,
  readdir,
  rename,
  rm,
  stat,
  utimes,
  writeFile,
} from 'node:fs/promises';
import path from 'node:path';
import type { Readable } from 'node:stream';
import { orDiskFault } from './disk-fault.ts';
import { checkKey, longestSweepMs, type ObjectStore } from './object-store.ts';

/** A write takes seconds at most: a temporary file older than this belongs to a process that died. */
const abandonedWriteMs = 3_600_000;
const temporaryFolder = '.writing';
/** The first part of a key (`checkKey`), and what is being written. */
const ownFolder = /^(?:[a-z]+|\.writing)$/;
const pieceBytes = 262_144;

export interface FolderStoreOptions {
  /** Delete expired files every ten minutes. One process that does is enough; more do no harm. */
  sweep: boolean;
  /** Told when a sweep fails, for the log. */
  onError?: (error: unknown) => void;
}

export class FolderStore implements ObjectStore {
  readonly #folder: string;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(folder: string, { sweep, onError = () => {} }: FolderStoreOptions) {
    this.#folder = path.resolve(folder);
    if (sweep) {
      const run = () => this.sweep().catch(onError);
      run();
      this.#timer = setInterval(run, longestSweepMs).unref();
    }
  }

  put(key: string, bytes: Uint8Array, ttlSeconds: number): Promise<void> {
    // Not synced to disk: the queue itself (AOF, every second) promises no more after a power cut.
    return orDiskFault(() =>
      this.#put(key, ttlSeconds, (file) => writeFile(file, bytes, { mode: 0o600 })),
    );
  }

  get(key: string): Promise<Buffer | undefined> {
    return orDiskFault(async () => {
      const handle = await this.#open(key);
      return handle?.readFile().finally(() => handle.close());
    });
  }

  stream(key: string): Promise<Readable | undefined> {
    // It closes the file when it has ended or is destroyed.
    return orDiskFault(async () =>
      (await this.#open(key))?.createReadStream({ highWaterMark: pieceBytes }),
    );
  }

  copy(from: string, to: string, ttlSeconds: number): Promise<boolean> {
    return orDiskFault(async () => {
      if (!(await this.#has(from))) return false;
      const copied = this.#put(to, ttlSeconds, (file) => copyFile(this.#file(from), file));
      return (await orMissing(copied.then(() => true))) ?? false;
    });
  }

  expire(key: string, ttlSeconds: number): Promise<boolean> {
    return orDiskFault(async () => {
      if (!(await this.#has(key))) return false;
      const renewed = setExpiry(this.#file(key), ttlSeconds);
      return (await orMissing(renewed.then(() => true))) ?? false;
    });
  }

  has(key: string): Promise<boolean> {
    return orDiskFault(() => this.#has(key));
  }

  delete(key: string): Promise<void> {
    return orDiskFault(async () => rm(this.#file(key), { force: true }));
  }

  async close(): Promise<void> {
    clearInterval(this.#timer);
  }

  /**
   * Deletes what has expired and what a dead process left half-written.
   * @throws AggregateError of what could not be read or deleted, when the rest is done
   */
  async sweep(): Promise<void> {
    const faults: unknown[] = [];
    for (const folder of await foldersIn(this.#folder)) {
      await this.#sweepFolder(folder, faults).catch((error: unknown) => faults.push(error));
    }
    if (faults.length > 0) {
      throw new AggregateError(
        faults,
        `${faults.length} faults while expired images were deleted.`,
      );
    }
  }

  async #sweepFolder(folder: string, faults: unknown[]): Promise<void> {
    const oldest = Date.now() - (folder === temporaryFolder ? abandonedWriteMs : 0);
    for (const name of await readdir(path.join(this.#folder, folder))) {
      const file = path.join(this.#folder, folder, name);
      const sweepFile = async (): Promise<void> => {
        const facts = await orMissing(stat(file));
        if (facts && facts.mtimeMs <= oldest) await rm(file, { force: true });
      };
      await sweepFile().catch((error: unknown) => faults.push(error));
    }
  }

  /** @param write makes the file that is to become the object */
  async #put(
    key: string,
    ttlSeconds: number,
    write: (file: string) => Promise<void>,
  ): Promise<void> {
    const file = this.#file(key);
    const temporary = path.join(this.#folder, temporaryFolder, randomUUID());
    await mkdir(path.dirname(temporary), { recursive: true });
    await mkdir(path.dirname(file), { recursive: true });
    try {
      await write(temporary);
      await setExpiry(temporary, ttlSeconds);
      await rename(temporary, file);
    } catch (error) {
      await rm(temporary, { force: true });
      throw error;
    }
  }

  /** The file of an object that is there and alive; whoever has it closes it. */
  async #open(key: string): Promise<FileHandle | undefined> {
    const handle = await orMissing(open(this.#file(key), 'r'));
    if (!handle) return undefined;
    let isAlive = false;
    try {
      isAlive = (await handle.stat()).mtimeMs > Date.now();
      return isAlive ? handle : undefined;
    } finally {
      if (!isAlive) await handle.close();
    }
  }

  async #has(key: string): Promise<boolean> {
    const facts = await orMissing(stat(this.#file(key)));
    return facts !== undefined && facts.mtimeMs > Date.now();
  }

  #file(key: string): string {
    return path.join(this.#folder, checkKey(key));
  }
}

async function setExpiry(file: string, ttlSeconds: number): Promise<void> {
  const expiresAt = new Date(Date.now() + ttlSeconds * 1000);
  await utimes(file, expiresAt, expiresAt);
}

/** Those that are ours: at the top of a volume there may be others, such as `lost+found`, which nobody may read. */
async function foldersIn(folder: string): Promise<string[]> {
  const entries = (await orMissing(readdir(folder, { withFileTypes: true }))) ?? [];
  return entries
    .filter((entry) => entry.isDirectory() && ownFolder.test(entry.name))
    .map((entry) => entry.name);
}

async function orMissing<T>(operation: Promise<T>): Promise<T | undefined> {
  try {
    return await operation;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}
