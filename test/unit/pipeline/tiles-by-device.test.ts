/**
 * Small images on devices that tune for each shape: they are padded no further than on a CPU, never go to strips,
 * and so have the same pixels. With the policy of such a device, on the CPU, since no other is at hand.
 */
import { afterAll, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { planGeometry } from '../../../src/pipeline/geometry.ts';
import type { Manifest } from '../../../src/pipeline/manifest.ts';
import { loadModel, type Model, tilePolicyOf } from '../../../src/pipeline/model.ts';
import { GraphSession } from '../../../src/pipeline/session.ts';
import { planTiles } from '../../../src/pipeline/tiles.ts';
import { difference, fixturePath } from './fixtures.ts';
import { loadOnCpu, picture, pixelsOf, run } from './run.ts';

/** The tiles that the converter chooses for Stable Diffusion (docs/models.md); the last where memory is unknown. */
const converted = [
  { device: '6 GB', encoder: 112, unet: 96, decoder: 80 },
  { device: '12 GB', encoder: 200, unet: 96, decoder: 144 },
  { device: '24 GB', encoder: 256, unet: 96, decoder: 224 },
  { device: '80 GB', encoder: 256, unet: 96, decoder: 256 },
  { device: 'unknown', encoder: 128, unet: 96, decoder: 96 },
];
const tuning = [{ cuda: 0 }, 'webgpu'] as const;

function withTiles(manifest: Manifest, tiles: Omit<(typeof converted)[number], 'device'>) {
  const { encoder, unet, decoder } = manifest.graphs;
  const graphs = {
    encoder: { ...encoder, tileLatents: tiles.encoder },
    unet: { ...unet, tileLatents: tiles.unet },
    decoder: { ...decoder, tileLatents: tiles.decoder },
  };
  return { ...manifest, graphs };
}

const bundle = fixturePath('stages/sd-small');

/** Loads as on the device, and runs on the CPU. */
async function loadAsOn(executionProvider: (typeof tuning)[number]): Promise<Model> {
  const open = GraphSession.open;
  const opening = vi.spyOn(GraphSession, 'open').mockImplementation((contract, options) => {
    return open(contract, { ...options, executionProvider: 'cpu' });
  });
  const loaded = await loadModel(bundle, { executionProvider, threads: 1 });
  opening.mockRestore();
  return loaded;
}

describe.each(tuning)('on %o', (executionProvider) => {
  // Group normalisation and attention: what a pixel becomes depends on all that the graph sees.
  let onCpu: Model;
  let onDevice: Model;
  beforeAll(async () => {
    onCpu = await loadOnCpu(bundle);
    onDevice = await loadAsOn(executionProvider);
  });
  afterAll(async () => {
    await onCpu.dispose();
    await onDevice.dispose();
  });

  /** Gives a model another manifest until the test ends. */
  function become(model: Model, manifest: Manifest): void {
    const before = model.manifest;
    onTestFinished(() => {
      Object.assign(model, { manifest: before });
    });
    Object.assign(model, { manifest });
  }

  it('a small image has the pixels that it has on a CPU, and no graph runs in strips', async () => {
    const [smallest] = converted as [(typeof converted)[number]];
    const manifest = withTiles(onCpu.manifest, smallest);
    const strips = [onCpu, onDevice].map((model) => vi.spyOn(model, 'stagesOf'));
    onTestFinished(() => {
      for (const stages of strips) stages.mockRestore();
    });
    become(onCpu, manifest);
    become(onDevice, manifest);
    for (const [width, height] of [
      [1, 1],
      [9, 30],
      [32, 32],
      [40, 28],
    ] as const) {
      const lowRes = await picture(width, height);
      const pixelsOn = async (model: Model) => {
        const dials = { pix: 0.6, sem: 1.4, colorfix: 'none' } as const;
        return (await pixelsOf((await run(lowRes, model, dials)).image)).data;
      };
      const [there, here] = [await pixelsOn(onDevice), await pixelsOn(onCpu)];
      expect(Buffer.compare(there, here), `${width} × ${height}`).toBe(0);
    }
    for (const stages of strips) expect(stages).not.toHaveBeenCalled();
  });

  it('an image of any size is padded as on a CPU, and one of up to 640² is not stripped', () => {
    for (const { device, ...tiles } of converted) {
      const manifest = withTiles(
        { ...onCpu.manifest, latents: { channels: 4, downscale: 8 }, multipleOf: 64 },
        tiles,
      );
      const planned = {
        manifest,
        tilePolicy: tilePolicyOf(manifest, { executionProvider }),
      };
      const plannedOnCpu = {
        manifest,
        tilePolicy: tilePolicyOf(manifest, { executionProvider: 'cpu' }),
      };
      for (const [width, height] of [
        [1, 1],
        [112, 43],
        [128, 128],
        [160, 160],
        [190, 120],
        [1024, 683],
      ] as const) {
        const at = `${device}, ${width} × ${height}`;
        const { latents } = planGeometry({ width, height }, 4, planned, 1e9);
        expect(latents, at).toEqual(planGeometry({ width, height }, 4, plannedOnCpu, 1e9).latents);
        expect(latents.width - width / 2, at).toBeLessThan(8);
        if (width > 200) continue;
        for (const graph of ['encoder', 'decoder'] as const) {
          const { tiles: parts } = planTiles(latents, manifest.graphs[graph], planned.tilePolicy);
          expect(parts.length, `${at}, ${graph}`).toBe(1);
        }
      }
    }
  });

  it('both residuals are one run, where a CPU has two with the memory of one', async () => {
    const size = { height: 8, width: 12 };
    const latents = Float32Array.from({ length: 4 * 8 * 12 }, (_, i) => Math.sin(i));
    const runs = vi.spyOn(GraphSession.prototype, 'run');
    onTestFinished(() => runs.mockRestore());
    const residualsOn = async (model: Model) => {
      runs.mockClear();
      const residuals = new Float32Array(2 * latents.length);
      await model.predict(latents, [0, 1], size, residuals);
      return { residuals, batches: runs.mock.calls.map(([feeds]) => feeds.latents?.dims[0]) };
    };
    const [there, here] = [await residualsOn(onDevice), await residualsOn(onCpu)];
    expect([there.batches, here.batches]).toEqual([[2], [1, 1]]);
    expect(difference(there.residuals, here.residuals).max).toBeLessThan(1e-6);
    const [pix, pisa] = [0, 1].map((i) =>
      here.residuals.subarray(i * latents.length).slice(0, latents.length),
    );
    expect(difference(pix ?? [], pisa ?? []).max).toBeGreaterThan(1e-3);
  });

  it('warms up the tile of larger images, and 512² in each graph', async () => {
    const manifest = withTiles(onCpu.manifest, { encoder: 40, unet: 32, decoder: 64 });
    // A cell of 16 pixels, so that 512² is 32² of them.
    become(onDevice, { ...manifest, latents: { channels: 4, downscale: 16 }, multipleOf: 32 });
    const runs = vi.spyOn(GraphSession.prototype, 'run').mockResolvedValue();
    onTestFinished(() => runs.mockRestore());
    await onDevice.warmUp();
    expect(runs.mock.calls.map(([{ pixels, latents }]) => (pixels ?? latents)?.dims)).toEqual([
      [1, 3, 640, 640],
      [1, 3, 512, 512],
      [1, 4, 32, 32],
      [2, 4, 32, 32],
      [1, 4, 64, 64],
      [1, 4, 32, 32],
    ]);
  });
});
