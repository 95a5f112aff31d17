/** `pisa-serve upscale` on a GPU that fails in the midst of a folder: nobody starts its process again. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { upscaleFiles } from '../../../src/commands/upscale.ts';
import { loadConfig } from '../../../src/config.ts';
import { brokenDevice } from '../../../src/pipeline/broken-device.ts';
import type { loadModel } from '../../../src/pipeline/model.ts';
import { outOfMemory } from '../../../src/pipeline/out-of-memory.ts';
import { upscale } from '../../../src/pipeline/upscale.ts';

// A CPU stands in for the GPU that is named.
vi.mock('../../../src/pipeline/model.ts', async (original) => {
  const real = await original<{ loadModel: typeof loadModel }>();
  const onCpu: typeof loadModel = (folder, options) =>
    real.loadModel(folder, { ...options, executionProvider: 'cpu' });
  return { ...real, loadModel: onCpu };
});
vi.mock('../../../src/pipeline/upscale.ts', async (original) => ({
  upscale: vi.fn((await original<{ upscale: typeof upscale }>()).upscale),
}));

const bundles = path.resolve(import.meta.dirname, '../../fixtures/bundles');
const words = 'CUDA failure 2: out of memory';
const faults = {
  broken: brokenDevice('cuda:0', new Error(words)),
  'without memory': outOfMemory('cuda:0', new Error(words)),
};
let folder: string;
let told: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-lost-'));
  const background = { r: 90, g: 120, b: 60 };
  for (const name of ['a', 'b', 'c', 'd']) {
    const image = sharp({ create: { width: 16, height: 12, channels: 3, background } });
    await image.toFile(path.join(folder, `${name}.png`));
  }
  told = '';
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => {
    told += text;
    return true;
  });
});
afterEach(async () => {
  vi.mocked(process.stderr.write).mockRestore();
  vi.mocked(upscale).mockClear();
  await rm(folder, { recursive: true, force: true });
});

const inFolder = (name: string): string => path.join(folder, name);
const run = (input: string, output: string, flags = {}): Promise<number> =>
  upscaleFiles(
    loadConfig({ MODELS_DIR: bundles, MODEL: 'identity', DEVICE_THREADS: '1' }),
    [inFolder(input)],
    inFolder(output),
    flags,
  );

test.each(['broken', 'without memory'] as const)(
  '%s: the photos after it are not tried, and a command with --skip-existing goes on with them',
  async (fault) => {
    const real = vi.mocked(upscale).getMockImplementation() as typeof upscale;
    vi.mocked(upscale).mockImplementationOnce(real).mockRejectedValueOnce(faults[fault]);
    expect(await run('', 'out', { device: 'cuda:0' })).toBe(3);
    expect(upscale).toHaveBeenCalledTimes(2);
    const lines = told.trimEnd().split('\n').slice(1);
    expect(lines).toEqual([
      `${inFolder('b.png')}: The device failed (${words}).`,
      `${inFolder('c.png')}: Not begun.`,
      `${inFolder('d.png')}: Not begun.`,
      `The device does nothing more for this process. Run the command again for the photos above alone. docs/devices.md says what to look for.`,
    ]);
    expect(await readdir(inFolder('out'))).toEqual(['a.png']);
    expect(await run('', 'out', { device: 'cuda:0', skipExisting: true })).toBe(0);
    expect(upscale).toHaveBeenCalledTimes(5);
    expect(await readdir(inFolder('out'))).toEqual(['a.png', 'b.png', 'c.png', 'd.png']);
  },
);
