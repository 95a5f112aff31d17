/** What `pisa-serve upscale` refuses to write, and what it says of a photo that it cannot take. */
import { mkdtemp, readdir, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type UpscaleFlags, upscaleFiles } from '../../../src/commands/upscale.ts';
import { loadConfig } from '../../../src/config.ts';

const bundles = path.resolve(import.meta.dirname, '../../fixtures/bundles');
let folder: string;
let told: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-targets-'));
  told = '';
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    told += text;
    return true;
  });
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(folder, { recursive: true, force: true });
});

const inFolder = (name: string): string => path.join(folder, name);
async function photo(name: string, width = 16, height = 12): Promise<Buffer> {
  const background = { r: 90, g: 120, b: 60 };
  await sharp({ create: { width, height, channels: 3, background } }).toFile(inFolder(name));
  return readFile(inFolder(name));
}
const run = (inputs: string[], output: string, flags: UpscaleFlags, env = {}): Promise<number> =>
  upscaleFiles(
    loadConfig({ MODELS_DIR: bundles, MODEL: 'identity', DEVICE_THREADS: '1', ...env }),
    inputs.map(inFolder),
    inFolder(output),
    flags,
  );
const refused = (words: RegExp) => ({
  code: 'invalid_parameter',
  message: expect.stringMatching(words),
});

test('refuses two photos that would become one file, by force or not', async () => {
  await photo('cat.png');
  await photo('cat.jpg');
  const both = run(['cat.png', 'cat.jpg'], 'out', { force: true });
  await expect(both).rejects.toMatchObject(
    refused(/cat\.png and .*cat\.jpg would both become .*out\/cat\.png\. .* different folders/),
  );
  expect(await readdir(inFolder('out'))).toEqual([]);
});

test('refuses to write a result over its own photo, by force or not', async () => {
  const before = await photo('cat.png');
  for (const output of ['cat.png', './', 'out/../cat.png']) {
    await expect(run(['cat.png'], output, { force: true })).rejects.toMatchObject(
      refused(/cat\.png is the input itself/),
    );
  }
  expect(await readFile(inFolder('cat.png'))).toEqual(before);
});

test('replaces a file that is there by force only', async () => {
  await photo('cat.png');
  const before = await photo('big.png', 8, 8);
  await expect(run(['cat.png'], 'big.png', {})).rejects.toMatchObject(
    refused(/big\.png exists\. Give --force to replace it, or --skip-existing to keep it/),
  );
  expect(await readFile(inFolder('big.png'))).toEqual(before);
  expect(await run(['cat.png'], 'big.png', { force: true })).toBe(0);
  expect(await sharp(await readFile(inFolder('big.png'))).metadata()).toMatchObject({ width: 64 });
});

test('leaves out what is there when asked to, and then loads no model for nothing', async () => {
  await photo('a.png');
  await photo('b.png');
  expect(await run(['a.png'], 'out/', {})).toBe(0);
  const before = await stat(inFolder('out/a.png'));
  expect(await run(['a.png', 'b.png'], 'out', { skipExisting: true })).toBe(0);
  expect(await readdir(inFolder('out'))).toEqual(['a.png', 'b.png']);
  expect((await stat(inFolder('out/a.png'))).mtimeMs).toBe(before.mtimeMs);
  const nowhere = { MODELS_DIR: inFolder('no-bundles') };
  expect(await run(['a.png', 'b.png'], 'out', { skipExisting: true }, nowhere)).toBe(0);
  expect(told).toMatch(/Every output exists: nothing is left to do\.\n$/);
});

test('a photo of more than MAX_INPUT_PIXELS fails by itself, and the others are upscaled', async () => {
  await photo('a.png', 32, 32);
  await photo('b.png', 16, 16);
  expect(await run(['a.png', 'b.png'], 'out', {}, { MAX_INPUT_PIXELS: '1000' })).toBe(1);
  expect(told).toMatch(/a\.png: .*32 ?× ?32.*1.?000/);
  expect(await readdir(inFolder('out'))).toEqual(['b.png']);
});
