/**
 * A tensor of the whole image between two stages, in a file without a name: what a large image needs beyond
 * a strip is disk, of which the system keeps in memory what fits.
 */
import { type FileHandle, open } from 'node:fs/promises';
import path from 'node:path';
import { inTemporaryFolder, orDiskFull } from '../temporary-files.ts';

export type Elements = Float32Array | Uint16Array;
export type ElementType = 'float32' | 'float16';

export const elements = (type: ElementType, length: number): Elements =>
  type === 'float32' ? new Float32Array(length) : new Uint16Array(length);

const bytesOf = ({ buffer, byteOffset, byteLength }: Elements): Uint8Array =>
  new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);

/** Node takes no 2³¹ bytes in one call: a read of them ends the process, a write throws. A strip on a large GPU has more. */
const longestTransfer = 2 ** 30;

const need = 'images larger than a tile need (docs/models.md). A smaller image needs less.';

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
  static create(rowBytes: number): Promise<StoredRows> {
    return inTemporaryFolder('pisa-strips-', need, async (folder) => {
      // It lives on without its name while it is open, and is gone when this process is, however it ends.
      const file = await open(path.join(folder, 'rows'), 'wx+', 0o600);
      return new StoredRows(file, rowBytes);
    });
  }

  /** Fills `target` from row `y` on. */
  async read(y: number, target: Elements): Promise<void> {
    const bytes = bytesOf(target);
    const start = y * this.#rowBytes;
    for (let done = 0; done < bytes.length; ) {
      const length = Math.min(bytes.length - done, longestTransfer);
      const { bytesRead } = await this.#file.read(bytes, done, length, start + done);
      if (bytesRead === 0) throw new Error(`Row ${y} was read before it was written.`);
      done += bytesRead;
    }
  }

  /** @throws disk_full when the disk of the temporary folder (TMPDIR) is full */
  write(y: number, rows: Elements): Promise<void> {
    return orDiskFull(need, () => this.#write(y, rows));
  }

  async #write(y: number, rows: Elements): Promise<void> {
    const bytes = bytesOf(rows);
    const start = y * this.#rowBytes;
    for (let done = 0; done < bytes.length; ) {
      const length = Math.min(bytes.length - done, longestTransfer);
      const { bytesWritten } = await this.#file.write(bytes, done, length, start + done);
      done += bytesWritten;
    }
  }

  async close(): Promise<void> {
    await this.#file.close();
  }
}
