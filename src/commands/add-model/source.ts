/** Where a bundle comes from: a folder of this machine. `url-source.ts` is the other kind. */
import { constants } from 'node:fs';
import { copyFile, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { AppError, expected } from '../../errors.ts';
import type { BundleFile } from '../../pipeline/manifest.ts';

export interface BundleSource {
  /** What messages call it. */
  readonly where: string;
  /** True: what is in the target already is taken for the beginning of the file. */
  readonly resumes: boolean;
  /** Text of the manifest. */
  manifest(): Promise<string>;
  /**
   * Writes a file of the bundle to `target`.
   * @throws invalid_bundle | bundle_not_added | errors of the file system, of which `target` is the only file
   */
  fetch(entry: BundleFile, target: string): Promise<void>;
}

export class FolderSource implements BundleSource {
  readonly resumes = false;
  readonly where: string;

  constructor(folder: string) {
    this.where = folder;
  }

  async manifest(): Promise<string> {
    const file = path.join(this.where, 'manifest.json');
    try {
      return await readFile(file, 'utf8');
    } catch (cause) {
      throw new AppError(
        'invalid_bundle',
        `${this.where} is no model bundle: ${file} cannot be read. Name a folder with manifest.json and its graphs, or the URL of one.`,
        { cause },
      );
    }
  }

  async fetch({ file, bytes }: BundleFile, target: string): Promise<void> {
    const from = path.join(this.where, file);
    const facts = await stat(from).catch(() => undefined);
    if (!facts?.isFile()) {
      throw new AppError(
        'invalid_bundle',
        `${this.where}: ${file} is missing. Export the bundle again.`,
      );
    }
    if (facts.size !== bytes) {
      const fault = expected(`${bytes} bytes`, file, facts.size);
      throw new AppError('invalid_bundle', `${this.where}: ${fault}. Export the bundle again.`);
    }
    await copyFile(from, target, constants.COPYFILE_FICLONE);
  }
}
