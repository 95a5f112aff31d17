/** What a bundle or a device that does not fit is told. */
import { copyFile, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import { loadModel } from '../../../src/pipeline/model.ts';
import { GraphSession } from '../../../src/pipeline/session.ts';
import { bundlePath } from './fixtures.ts';
import { changedBundle, loadOnCpu } from './run.ts';

const identity = bundlePath('identity');

describe('loadModel', () => {
  it('names the type that a graph has and the manifest denies', async () => {
    const bundle = await changedBundle(identity, ({ graphs }) => {
      graphs.unet.dtype = 'float16';
    });
    await expect(loadOnCpu(bundle)).rejects.toMatchObject({
      code: 'invalid_bundle',
      message: expect.stringContaining(
        'Expected float16 for the type of input latents but received "float32"',
      ),
    });
  });

  it('names a shape that does not fit', async () => {
    const bundle = await changedBundle(identity, ({ latents }) => {
      latents.channels = 16;
    });
    await expect(loadOnCpu(bundle)).rejects.toThrow(
      'Expected [?,16,?,?] for the shape of output latents but received "[N,48,h,w]"',
    );
  });

  it('names the inputs of a graph that is another', async () => {
    const bundle = await changedBundle(identity, () => undefined);
    await copyFile(path.join(bundle, 'decoder.onnx'), path.join(bundle, 'unet.onnx'));
    await expect(loadOnCpu(bundle)).rejects.toThrow(
      'Expected latents, semantic for the names of the inputs but received "latents"',
    );
  });

  it.each(['', 'not an ONNX file'])('says which file cannot be loaded', async (content) => {
    const bundle = await changedBundle(identity, () => undefined);
    await writeFile(path.join(bundle, 'encoder.onnx'), content);
    const loading = loadOnCpu(bundle);
    await expect(loading).rejects.toMatchObject({ code: 'invalid_bundle' });
    await expect(loading).rejects.toThrow(/encoder\.onnx cannot be loaded/);
  });

  it('takes and warms up the tiles for the memory of the device, and stays the same bundle', async () => {
    const bundle = await changedBundle(identity, (manifest) => {
      manifest.tilesByMemory = [
        { gigabytes: 6, encoder: 20, unet: 24, decoder: 28 },
        { gigabytes: 24, encoder: 32, unet: 36, decoder: 40 },
      ];
    });
    const runs = vi.spyOn(GraphSession.prototype, 'run');
    onTestFinished(() => runs.mockRestore());
    const options = { executionProvider: 'cpu', threads: 1 } as const;
    const model = await loadModel(bundle, { ...options, memoryBytes: 12e9 });
    await model.warmUp();
    const inputs = runs.mock.calls.map(([{ pixels, latents }]) => (pixels ?? latents)?.dims);
    expect(inputs).toEqual([
      [1, 3, 80, 80],
      [1, 48, 24, 24],
      [1, 48, 28, 28],
    ]);
    const usual = await loadModel(bundle, options);
    expect(usual.manifest.graphs.unet.tileLatents).toBe(16);
    expect(usual.sha256).toBe(model.sha256);
    await Promise.all([model.dispose(), usual.dispose()]);
  });

  it('never falls back to the CPU from a device that is not there', async () => {
    const loading = loadModel(identity, { executionProvider: { cuda: 99 } });
    await expect(loading).rejects.toMatchObject({ code: 'device_unavailable' });
    await expect(loading).rejects.toThrow(/cuda:99 cannot be used.*Set DEVICES=cpu/s);

    // Points the Vulkan loader at nothing, on a machine with a graphics card too.
    for (const name of ['VK_ICD_FILENAMES', 'VK_DRIVER_FILES']) process.env[name] = '/nonexistent';
    const webgpu = loadModel(identity, { executionProvider: 'webgpu' });
    await expect(webgpu).rejects.toMatchObject({ code: 'device_unavailable' });
    await expect(webgpu).rejects.toThrow(/webgpu cannot be used.*Vulkan driver/s);
  });
});

describe('GraphSession', () => {
  const contract = {
    file: path.join(identity, 'unet.onnx'),
    dtype: 'float32',
    inputs: { latents: [null, 48, null, null], semantic: [null] },
    outputs: { residual: [null, 48, null, null] },
  } as const;
  const latents = { data: new Float32Array(48), dims: [1, 48, 1, 1] };
  const semantic = { data: Float32Array.of(0), dims: [1] };

  it('says what is wrong with its feeds', async () => {
    const session = await GraphSession.open(contract, { executionProvider: 'cpu' });
    const residual = { data: new Float32Array(48), dims: [1, 48, 1, 1] };
    await expect(session.run({ latents }, { residual })).rejects.toThrow(
      'Expected latents, semantic for feeds but received "latents"',
    );
    const short = { latents: { ...latents, dims: [1, 48, 2, 1] }, semantic };
    await expect(session.run(short, { residual })).rejects.toThrow(
      'Expected 96 values for dims [1,48,2,1] for latents but received 48',
    );
    const flat = { latents: { ...latents, dims: [48] }, semantic };
    await expect(session.run(flat, { residual })).rejects.toThrow(
      'Expected [?,48,?,?] for dims of latents but received "[48]"',
    );
    await session.release();
  });

  it("writes into the caller's buffer", async () => {
    const session = await GraphSession.open(contract, { executionProvider: 'cpu' });
    const data = new Float32Array(96).fill(7);
    const both = { data: Float32Array.from({ length: 96 }, (_, i) => i % 48), dims: [2, 48, 1, 1] };
    const pair = { data: Float32Array.of(0, 1), dims: [2] };
    await session.run({ latents: both, semantic: pair }, { residual: { data, dims: both.dims } });
    expect(data[10]).toBeCloseTo(1, 5);
    expect(data[58]).toBeCloseTo(3, 5);
    await session.release();
  });
});
