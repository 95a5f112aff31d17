/**
 * A tensor of the whole image between two stages, in a file without a name: what a large image needs beyond
 * a strip is disk, of which the system keeps in memory what fits.
 */
import { type FileHandle, mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { AppError } from '../../errors.ts';

export type Elements = Float32Array | Uint16Array;
export type ElementType = 'float32' | 'float16';

export const elements = (type: ElementType, length: number): Elements =>
  type === 'float32' ? new Float32Array(length) : new Uint16Array(length);

const bytesOf = ({ buffer, byteOffset, byteLength }: Elements): Uint8Array =>
  new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);

const unwritable = new Set(['ENOSPC', 'EDQUOT', 'EFBIG', 'EACCES', 'EPERM', 'EROFS', 'ENOENT']);

/** What is wrong with the temporary folder, in words for whoever chose it. Other errors stay what they are. */
function explained(error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code === undefined || !unwritable.has(code)) return error;
  return new AppError(
    'disk_full',
    `The worker could not write temporary data to ${tmpdir()} (${code}), which images larger than a tile need. A smaller image needs less. Its operator can free space there, or set TMPDIR to a writable folder with more (docs/models.md).`,
    { cause: error },
  );
}

export class StoredRows {
  readonly #file: FileHandle;
  readonly #rowBytes: number;

  private constructor(file: FileHandle, rowBytes: number) {
    this.#file = file;
    this.#rowBytes = rowBytes;
  }

  /**
   * @param rowBytes of one row with all its channels
   * @throws disk_full when the temporary folder (TMPDIR) cannot be written
   */
  static async create(rowBytes: number): Promise<StoredRows> {
    try {
      return await StoredRows.#create(rowBytes);
    } catch (error) {
      throw explained(error);
    }
  }

  static async #create(rowBytes: number): Promise<StoredRows> {
    const folder = await mkdtemp(path.join(tmpdir(), 'pisa-strips-'));
    try {
      const file = await open(path.join(folder, 'rows'), 'wx+', 0o600);
      return new StoredRows(file, rowBytes);
    } finally {
      // The open file lives on without its name, and is gone when this process is, however it ends.
      await rm(folder, { recursive: true, force: true });
    }
  }

  /** Fills `target` from row `y` on. */
  async read(y: number, target: Elements): Promise<void> {
    const bytes = bytesOf(target);
    const start = y * this.#rowBytes;
    for (let done = 0; done < bytes.length; ) {
      const { bytesRead } = await this.#file.read(bytes, done, bytes.length - done, start + done);
      if (bytesRead === 0) throw new Error(`Row ${y} was read before it was written.`);
      done += bytesRead;
    }
  }

  /** @throws disk_full when the disk of the temporary folder (TMPDIR) is full */
  async write(y: number, rows: Elements): Promise<void> {
    try {
      await this.#write(y, rows);
    } catch (error) {
      throw explained(error);
    }
  }

  async #write(y: number, rows: Elements): Promise<void> {
    const bytes = bytesOf(rows);
    const start = y * this.#rowBytes;
    for (let done = 0; done < bytes.length; ) {
      const { bytesWritten } = await this.#file.write(
        bytes,
        done,
        bytes.length - done,
        start + done,
      );
      done += bytesWritten;
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}
