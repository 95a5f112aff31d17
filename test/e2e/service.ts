/** A real `pisa-serve` for black-box tests: own port, own data folder, everything it prints kept. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { createInterface } from 'node:readline';
import type { Readable } from 'node:stream';

export const root = path.resolve(import.meta.dirname, '../..');
export const cli = path.join(root, 'dist/cli.js');
export const photo = (name: string): string => path.join(root, 'test/photos', name);

export interface RunningService {
  url: string;
  process: ChildProcess;
  /** Of a process that has started: never 0, which to `process.kill` is the caller's own group. */
  pid: number;
  dataDir: string;
  /** All of stdout so far. */
  stdout: () => string;
  stderr: () => string;
  /** SIGTERM, then waits for the end and removes the data folder. Resolves to the exit code. */
  stop: () => Promise<number | null>;
}

/** Resolves when the service has printed its ready line. */
export async function startService(
  options: { dataDir?: string; env?: Record<string, string> } = {},
): Promise<RunningService> {
  const dataDir = options.dataDir ?? mkdtempSync(path.join(tmpdir(), 'pisa-e2e-'));
  const child = spawn(process.execPath, [cli, 'serve'], {
    cwd: tmpdir(),
    env: { ...process.env, REDIS_URL: '', PORT: '0', DATA_DIR: dataDir, ...options.env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let stdout = '';
  let stderr = '';
  child.stderr.on('data', (chunk: Buffer) => {
    stderr += chunk.toString();
  });
  await new Promise<void>((resolve, reject) => {
    child.stdout.on('data', (chunk: Buffer) => {
      stdout += chunk.toString();
      if (stdout.includes('curl')) resolve();
    });
    child.once('exit', (code) => reject(new Error(`serve ended with ${code}: ${stderr}`)));
  });
  const url = /is ready: (\S+)/.exec(stdout)?.[1];
  if (url === undefined) throw new Error(`serve printed no address: ${stdout}`);
  const { pid } = child;
  if (pid === undefined) throw new Error('serve has no process id');
  return {
    url,
    process: child,
    pid,
    dataDir,
    stdout: () => stdout,
    stderr: () => stderr,
    stop: async () => {
      if (child.exitCode === null && child.signalCode === null) {
        const exited = once(child, 'exit');
        child.kill('SIGTERM');
        await exited;
      }
      rmSync(dataDir, { recursive: true, force: true });
      return child.exitCode;
    },
  };
}

/**
 * Resolves to the first line with this message in the log of a process, at level info.
 * @param child with a pipe for its stderr, which is read until it ends
 */
export function logged(
  child: ChildProcess & { stderr: Readable },
  message: string,
): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    let before = '';
    createInterface({ input: child.stderr }).on('line', (line) => {
      if (line.includes(`"msg":"${message}"`)) resolve(JSON.parse(line));
      before += `${line}\n`;
    });
    child.once('close', () => reject(new Error(`It ended without "${message}": ${before}`)));
  });
}
