/**
 * A provider other than the CPU gives the CPU's numbers: WebGPU in software, by the Vulkan driver that
 * Debian's chromium-common ships (with libvulkan1). Skipped, and said so, where that is not installed.
 */
import { existsSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharp } from '../../src/images/sharp-policy.ts';
import { loadManifest } from '../../src/pipeline/manifest.ts';
import { loadModel, type Model } from '../../src/pipeline/model.ts';
import type { GraphSession, Values } from '../../src/pipeline/session.ts';
import { StageSessions } from '../../src/pipeline/strips/stage-sessions.ts';
import { upscale } from '../../src/pipeline/upscale.ts';

const driver = '/usr/lib/chromium/vk_swiftshader_icd.json';
const isInstalled = existsSync(driver);
if (isInstalled) process.env.VK_ICD_FILENAMES = driver;
else {
  process.stderr.write(
    `Skipped: WebGPU needs a Vulkan driver; none at ${driver}. Install chromium-common and libvulkan1.\n`,
  );
}

const bundle = fileURLToPath(new URL('../fixtures/bundles/blur', import.meta.url));
const size = { height: 8, width: 8 };

function largestDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  expect(a.length).toBe(b.length);
  let largest = 0;
  for (let i = 0; i < a.length; i++) {
    const delta = Math.abs((a[i] as number) - (b[i] as number));
    // A NaN must not get lost in Math.max.
    if (!(delta <= largest)) largest = delta;
  }
  return largest;
}

describe.skipIf(!isInstalled)('WebGPU in software', () => {
  let cpu: Model;
  let gpu: Model;
  beforeAll(async () => {
    cpu = await loadModel(bundle, { executionProvider: 'cpu', threads: 1 });
    gpu = await loadModel(bundle, { executionProvider: 'webgpu' });
  });
  afterAll(async () => {
    await cpu.dispose();
    await gpu.dispose();
  });

  const wave = (length: number) => Float32Array.from({ length }, (_, i) => Math.sin(i));

  it('runs each graph with the numbers of the CPU', async () => {
    const latents = 48 * size.height * size.width;
    const pixels = 3 * 16 * size.height * size.width;
    const runs: Record<string, (model: Model) => Promise<Float32Array>> = {
      encoder: async (model) => {
        const output = new Float32Array(latents);
        await model.encodeLatents(wave(pixels), size, output);
        return output;
      },
      unet: async (model) => {
        const output = new Float32Array(2 * latents);
        await model.predict(wave(latents), [0, 1], size, output);
        return output;
      },
      decoder: async (model) => {
        const output = new Float32Array(pixels);
        await model.decodeLatents(wave(latents), size, output);
        return output;
      },
    };
    for (const [name, run] of Object.entries(runs)) {
      const [onCpu, onGpu] = [await run(cpu), await run(gpu)];
      expect(largestDifference(onCpu, wave(onCpu.length)), name).toBeGreaterThan(0.1);
      expect(largestDifference(onGpu, onCpu), name).toBeLessThan(1e-5);
    }
  });

  it('opens a stage of strips for each image anew, where a CPU keeps it, and gives the same numbers', async () => {
    const folder = fileURLToPath(new URL('../fixtures/stages/sd-small', import.meta.url));
    const { graphs } = await loadManifest(folder);
    const { strips, dtype } = graphs.decoder;
    if (!strips) throw new Error('sd-small has no strips');
    const file = path.join(folder, strips.file);
    const [read] = strips.stages[0]?.reads ?? [];
    const [write] = strips.stages[0]?.writes ?? [];
    if (!read || !write) throw new Error('a stage without tensors');
    const dims = [4, strips.channels, 6];
    const runs = async (executionProvider: 'cpu' | 'webgpu') => {
      const stages = new StageSessions(file, strips, dtype, { executionProvider, threads: 1 });
      const sessions = new Set<GraphSession>();
      const out = new Float32Array(4 * write.channels * 6);
      for (let image = 0; image < 2; image += 1) {
        await stages.with(0, async (session) => {
          sessions.add(session);
          const data = wave(4 * strips.channels * 6);
          const feeds: Record<string, Values> = { [read.input]: { data, dims } };
          if (strips.stages[0]?.padded) feeds.edges = { data: Float32Array.of(1, 1), dims: [2] };
          const outputs: Record<string, Values> = {
            [write.output]: { data: out, dims: [4, write.channels, 6] },
          };
          if (write.statistics) {
            for (const name of ['mean_out', 'variance_out']) {
              outputs[name] = { data: new Float32Array(strips.groups), dims: [strips.groups] };
            }
          }
          await session.run(feeds, outputs);
        });
      }
      await stages.release();
      return { opened: sessions.size, out };
    };
    const [onCpu, onGpu] = [await runs('cpu'), await runs('webgpu')];
    expect([onCpu.opened, onGpu.opened]).toEqual([1, 2]);
    expect(largestDifference(onGpu.out, onCpu.out)).toBeLessThan(1e-5);
  });

  it('upscales an image to the pixels of the CPU', async () => {
    // Several tiles, and no shorter than one, so that the padding is the same on both devices.
    const raw = { width: 40, height: 32, channels: 3 } as const;
    const data = Uint8Array.from({ length: 3 * 40 * 32 }, (_, i) => (i * 37) % 256);
    const lowRes = await sharp(data, { raw }).png().toBuffer();
    const params = {
      pix: 0.6,
      sem: 1.4,
      scale: 2,
      format: 'png',
      quality: 90,
      metadata: 'none',
      model: 'blur',
    } as const;
    const limits = { maxInputPixels: 10_000, maxOutputPixels: 100_000, maxRestoredPixels: 100_000 };
    const pixelsOn = async (model: Model) => {
      const { image } = await upscale(lowRes, params, { model, limits });
      return sharp(image).raw().toBuffer();
    };
    const [onCpu, onGpu] = [await pixelsOn(cpu), await pixelsOn(gpu)];
    expect(onGpu.length).toBe(80 * 64 * 3);
    expect(largestDifference(onGpu, onCpu)).toBeLessThanOrEqual(1);
  });
});
