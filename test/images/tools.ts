/** Runs what scripts/image-tools.sh got, and other programs, to their end. */
import { execFile } from 'node:child_process';
import path from 'node:path';
import { promisify } from 'node:util';

const execute = promisify(execFile);

export const root = path.resolve(import.meta.dirname, '../..');

export interface Ended {
  /** Exit code; -1 when a signal ended it or it could not be started. */
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program in the repository's folder; resolves also when it fails. */
export const run = (program: string, ...args: string[]): Promise<Ended> =>
  execute(program, args, { cwd: root, maxBuffer: 64_000_000 }).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    (error: { code?: unknown; stdout?: string; stderr?: string }) => ({
      code: typeof error.code === 'number' ? error.code : -1,
      stdout: error.stdout ?? '',
      stderr: error.stderr || String(error),
    }),
  );

/** @throws when the tests were not started by `make test-images` */
export function fromEnvironment(name: 'IMAGE_TOOLS' | 'PISA_IMAGE'): string {
  const value = process.env[name];
  if (value) return value;
  throw new Error(`${name} is not set: run \`make test-images\`, which makes what it needs.`);
}

export const tool = (name: 'hadolint' | 'compose-config' | 'wheels'): string =>
  path.join(fromEnvironment('IMAGE_TOOLS'), name);
