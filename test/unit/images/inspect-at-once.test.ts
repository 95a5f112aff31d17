/** Many images at once: their decodes take turns, and leave threads for the files of everybody else. */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync, rmSync } from 'node:fs';
import { mkdtemp, open, readFile, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { inspectImage } from '../../../src/images/inspect-image.ts';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { samples } from './samples.ts';

const limits = { maxPixels: 10_000 };
let folder: string;
let file: string;
let image: Buffer;
/** Open for writing: from then on decodes end. */
let gate: number | undefined;
let running = 0;
let most = 0;
let decoded = 0;

const release = (): void => {
  gate ??= openSync(path.join(folder, 'gate'), 'r+');
};

beforeEach(async () => {
  [running, most, decoded] = [0, 0, 0];
  image = await samples.png();
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-at-once-'));
  file = path.join(folder, 'file');
  await writeFile(file, 'of somebody else');
  execFileSync('mkfifo', [path.join(folder, 'gate')]);
  // A decode as the pool sees it: a thread that does nothing else until it ends. So is the opening of a pipe.
  vi.spyOn(sharp.prototype, 'toBuffer').mockImplementation(async () => {
    running += 1;
    most = Math.max(most, running);
    const pipe = await open(path.join(folder, 'gate'));
    await pipe.close();
    running -= 1;
    decoded += 1;
    return Buffer.alloc(0);
  });
});
afterEach(() => {
  release();
  vi.restoreAllMocks();
  closeSync(gate as number);
  gate = undefined;
  rmSync(folder, { recursive: true });
});

test('no more than two are decoded at once, and files are read meanwhile', async () => {
  const headers = vi.spyOn(sharp.prototype, 'metadata');
  const all = Array.from({ length: 12 }, () => inspectImage(image, limits));
  await expect
    .poll(() => headers.mock.settledResults.filter(({ type }) => type === 'fulfilled').length)
    .toBe(12);
  await expect.poll(() => running).toBe(2);
  expect(await readFile(file, 'utf8')).toBe('of somebody else');
  release();
  expect(await Promise.all(all)).toHaveLength(12);
  expect([most, decoded]).toEqual([2, 12]);
});

test('who gives up while it waits is not decoded', async () => {
  const first = [inspectImage(image, limits), inspectImage(image, limits)];
  await expect.poll(() => running).toBe(2);
  const abort = new AbortController();
  const gone = inspectImage(image, limits, abort.signal);
  const last = inspectImage(image, limits);
  abort.abort(new Error('gone'));
  await expect(gone).rejects.toThrow('gone');
  expect(decoded).toBe(0);
  release();
  await Promise.all([...first, last]);
  expect([most, decoded]).toEqual([2, 3]);
});
