import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import ort from 'onnxruntime-node';
import sharp from 'sharp';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { type UpscaleFlags, upscaleFiles } from '../../../src/commands/upscale.ts';
import { loadConfig } from '../../../src/config.ts';

const bundles = path.resolve(import.meta.dirname, '../../fixtures/bundles');
let folder: string;
let lowRes: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-upscale-'));
  lowRes = path.join(folder, 'in.png');
  const background = { r: 90, g: 120, b: 60 };
  await sharp({ create: { width: 16, height: 12, channels: 3, background } }).toFile(lowRes);
  vi.spyOn(process.stderr, 'write').mockReturnValue(true);
});
afterEach(async () => {
  vi.restoreAllMocks();
  await rm(folder, { recursive: true, force: true });
});

/** @param models a folder without bundles tells that there was no work: nothing could be loaded from it */
const config = (models = bundles) =>
  loadConfig({ MODELS_DIR: models, MODEL: 'identity', DEVICE_THREADS: '1' });
const run = (output: string, flags: UpscaleFlags = {}, models = bundles): Promise<number> =>
  upscaleFiles(config(models), [lowRes], path.join(folder, output), flags);
const refused = (words: RegExp) => ({
  code: 'invalid_parameter',
  message: expect.stringMatching(words),
});

test('makes the folder of the output', async () => {
  expect(await run('out/of/here/x.webp', { scale: 2 })).toBe(0);
  const made = path.join(folder, 'out/of/here/x.webp');
  const facts = await sharp(await readFile(made)).metadata();
  expect(facts).toMatchObject({ format: 'webp', width: 32, height: 24 });
  expect(await readdir(path.dirname(made))).toEqual(['x.webp']);
});

test('refuses an output that cannot be written before any work', async () => {
  await writeFile(path.join(folder, 'file'), '');
  const nowhere = path.join(folder, 'no-bundles');
  await expect(run('file/x.png', {}, nowhere)).rejects.toMatchObject(
    refused(/^Nothing can be written into the folder .*file \(E(EXIST|NOTDIR)\)\. Name another/),
  );
  await expect(run('file/out/', {}, nowhere)).rejects.toMatchObject(
    refused(/^Nothing can be written into the folder .*file\/out\/? \(ENOTDIR\)/),
  );
});

test('refuses a file that cannot be written before any work', async () => {
  const nowhere = path.join(folder, 'no-bundles');
  const name = `${'a'.repeat(240)}.png`;
  await expect(run(name, {}, nowhere)).rejects.toMatchObject(
    refused(/^The output .*a\.png cannot be written \(ENAMETOOLONG\)\. Name another one\.$/),
  );
  expect(await readdir(folder)).toEqual(['in.png']);
});

test.each([
  ['-', 'out.png'],
  ['in.png', '-'],
])('refuses standard input and output: %s %s', async (input, output) => {
  const refusal = refused(/^Standard input and output \(-\) cannot be used: name a photo/);
  await expect(upscaleFiles(config(), [input], output, {})).rejects.toMatchObject(refusal);
});

test.skipIf(process.getuid?.() === 0)('refuses a folder that is closed to us', async () => {
  await mkdir(path.join(folder, 'closed'), { mode: 0o500 });
  await expect(run('closed/x.png')).rejects.toMatchObject(refused(/closed \(EACCES\)/));
});

test('refuses a folder in the place of an output file, by force or not', async () => {
  await mkdir(path.join(folder, 'out/in.png'), { recursive: true });
  const nowhere = path.join(folder, 'no-bundles');
  await expect(run('out', { force: true }, nowhere)).rejects.toMatchObject(
    refused(/in\.png is a folder/),
  );
});

test('a device that fails while the model is loaded is said to be unusable, and of no job', async () => {
  const words = 'CUDA failure 700: an illegal memory access was encountered';
  vi.spyOn(ort.InferenceSession, 'create').mockRejectedValue(new Error(words));
  await expect(run('x.png', { device: 'cuda:0' })).rejects.toMatchObject({
    code: 'device_unavailable',
    message: expect.stringMatching(
      /^The device cuda:0 cannot be used: CUDA failure 700: .*devices/,
    ),
  });
  expect(await readdir(folder)).toEqual(['in.png']);
});
