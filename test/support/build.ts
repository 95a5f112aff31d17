/** The service compiled for one test file: child processes run by plain Node, which knows no TypeScript. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { access, rm } from 'node:fs/promises';
import path from 'node:path';

export const root = path.resolve(import.meta.dirname, '../..');

export interface Build {
  /** Compiled `src/`. */
  readonly folder: string;
  readonly deviceProgram: string;
  remove(): Promise<void>;
}

export async function buildService(): Promise<Build> {
  // Inside node_modules, so that the packages are found from there; its own folder, so that test files do not meet.
  const folder = path.join(root, 'node_modules/.cache/pisa-serve-tests', randomUUID());
  const deviceProgram = path.join(folder, 'worker/device-process/device-main.js');
  const args = ['-p', path.join(root, 'tsconfig.build.json'), '--outDir', folder];
  // Type errors are the business of `make check`; here it counts that the program is there.
  const output = await new Promise<string>((resolve) => {
    execFile(path.join(root, 'node_modules/.bin/tsc'), args, (_error, stdout) => resolve(stdout));
  });
  await access(deviceProgram).catch(() => {
    throw new Error(`The service does not compile:\n${output}`);
  });
  return { folder, deviceProgram, remove: () => rm(folder, { recursive: true, force: true }) };
}
