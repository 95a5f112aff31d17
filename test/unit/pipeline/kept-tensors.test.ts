/** Adjusting: a run at other dials that starts from what an earlier run kept. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import type { UpscaleParams } from '../../../src/jobs/params.ts';
import { planGeometry } from '../../../src/pipeline/geometry.ts';
import {
  type KeptTensors,
  TensorKeeper,
  type TensorName,
} from '../../../src/pipeline/kept-tensors.ts';
import type { Manifest } from '../../../src/pipeline/manifest.ts';
import type { Model } from '../../../src/pipeline/model.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { loadOnCpu, picture, pixelsOf, run } from './run.ts';

const root = path.resolve(import.meta.dirname, '../../..');

/** A keeper in memory that remembers what was asked of it. */
function memory(maxBytes = 100_000_000) {
  const tensors = new Map<TensorName, Uint8Array>();
  const kept: KeptTensors & { maxBytes: number } = {
    maxBytes,
    read: async (name) => tensors.get(name),
    write: (name, bytes) => void tensors.set(name, bytes),
  };
  return { kept, tensors };
}

/** Largest difference between two images, in levels of 255. */
async function levels(one: Uint8Array, other: Uint8Array): Promise<number> {
  const [a, b] = [await pixelsOf(one), await pixelsOf(other)];
  expect([b.width, b.height, b.channels]).toEqual([a.width, a.height, a.channels]);
  return a.data.reduce((most, value, i) => Math.max(most, Math.abs(value - (b.data[i] ?? 0))), 0);
}

let model: Model;
let photo: Buffer;
beforeAll(async () => {
  model = await loadOnCpu(path.join(root, 'models/pisa-tiny'));
  photo = await readFile(path.join(root, 'test/photos/portrait-96x128.jpg'));
});
afterAll(() => model.dispose());

describe('a run that finds the tensors of another', () => {
  it.each([
    [{ pix: 0.4, sem: 1.7 }],
    [{ pix: 1.3, sem: 1.3 }],
    [{ pix: 2, sem: 0 }],
    [{ pix: 0, sem: 2 }],
    [{ pix: 0, sem: 0 }],
    [{ pix: 2, sem: 0.5, colorfix: 'adain' }],
    [{ pix: 0.7, sem: 1.2, colorfix: 'wavelet' }],
  ] as Partial<UpscaleParams>[][])('gives what a fresh one gives at %o', async (params) => {
    const { kept, tensors } = memory();
    await run(photo, model, { pix: 1, sem: 0.5 }, { kept });
    expect([...tensors.keys()].sort()).toEqual(['eps_pisa', 'eps_pix', 'latents']);
    const adjusted = await run(photo, model, params, { kept });
    expect(adjusted.evaluations).toBe(0);
    const fresh = await run(photo, model, params);
    expect(await levels(adjusted.image, fresh.image)).toBeLessThanOrEqual(1);
  });

  it('keeps alpha and metadata as a fresh one does', async () => {
    const image = await sharp(await picture(40, 32, 4))
      .withExif({ IFD0: { Copyright: 'someone' } })
      .png()
      .toBuffer();
    const params = { pix: 0.5, sem: 1, metadata: 'keep' } as const;
    const { kept } = memory();
    await run(image, model, {}, { kept });
    const adjusted = await run(image, model, params, { kept });
    const fresh = await run(image, model, params);
    expect(await levels(adjusted.image, fresh.image)).toBeLessThanOrEqual(1);
    const [one, other] = await Promise.all(
      [adjusted, fresh].map((result) => sharp(result.image).metadata()),
    );
    expect(one?.hasAlpha).toBe(true);
    expect(one?.exif).toEqual(other?.exif);
  });

  it('computes a missing residual once and adds it', async () => {
    const { kept, tensors } = memory();
    expect((await run(photo, model, { pix: 1, sem: 1 }, { kept })).evaluations).toBe(1);
    expect([...tensors.keys()]).toEqual(['latents', 'eps_pisa']);
    expect((await run(photo, model, { pix: 1, sem: 0.5 }, { kept })).evaluations).toBe(1);
    expect([...tensors.keys()]).toEqual(['latents', 'eps_pisa', 'eps_pix']);
    const adjusted = await run(photo, model, { pix: 1.4, sem: 0.5 }, { kept });
    expect(adjusted.evaluations).toBe(0);
    const fresh = await run(photo, model, { pix: 1.4, sem: 0.5 });
    expect(await levels(adjusted.image, fresh.image)).toBeLessThanOrEqual(1);
  });

  it('does not take tensors of another size or other weights', async () => {
    const { kept, tensors } = memory();
    await run(photo, model, { scale: 2 }, { kept });
    expect((await run(photo, model, { scale: 4 }, { kept })).evaluations).toBe(1);
    const latents = tensors.get('latents') as Uint8Array;
    latents[0] = (latents[0] ?? 0) ^ 1;
    const { length } = latents;
    expect((await run(photo, model, { scale: 4 }, { kept })).evaluations).toBe(0);
    expect(tensors.get('latents')?.length).toBe(length);
    expect(tensors.get('latents')).not.toBe(latents);
  });

  it('does not take those of a bundle whose graphs are the same and whose weights are others', async () => {
    const { kept } = memory();
    const geometry = planGeometry({ width: 8, height: 8 }, 4, model, 1e6);
    const { channels } = model.manifest.latents;
    const latents = new Planar(channels, geometry.latents.height, geometry.latents.width);
    const keeperOf = (manifest: Manifest) =>
      new TensorKeeper(kept, geometry, { manifest }, new RunControl());
    await keeperOf(model.manifest).write('latents', latents);
    expect(await keeperOf(model.manifest).read('latents')).toBeDefined();
    const retrained = structuredClone(model.manifest);
    for (const weights of retrained.graphs.unet.externalData ?? []) weights.sha256 = 'f'.repeat(64);
    expect(await keeperOf(retrained).read('latents')).toBeUndefined();
  });

  it('keeps nothing of an image that is over the limit', async () => {
    const { kept, tensors } = memory(1000);
    expect((await run(photo, model, {}, { kept })).evaluations).toBe(1);
    expect(tensors.size).toBe(0);
  });
});

describe('a strength map', () => {
  const grey = (values: number[], width: number): Promise<Buffer> =>
    sharp(Uint8Array.from(values), {
      raw: { width, height: values.length / width, channels: 1 },
    })
      .png()
      .toBuffer();

  it('in white is the dial, in black is 0, half in half is both', async () => {
    const params = { pix: 1, sem: 1.5 };
    const plain = await run(photo, model, params);
    const without = await run(photo, model, { ...params, sem: 0 });
    const at = async (map: Buffer) =>
      (await run(photo, model, params, { maps: { sem: map } })).image;
    expect(await levels(await at(await grey([255], 1)), plain.image)).toBeLessThanOrEqual(1);
    expect(await levels(await at(await grey([0], 1)), without.image)).toBeLessThanOrEqual(1);
    const halves = await pixelsOf(
      await at(
        await grey(
          [...Array(64).fill(255), ...Array(64).fill(0)].flatMap((_, i) =>
            i % 8 < 4 ? [255] : [0],
          ),
          8,
        ),
      ),
    );
    const [left, right] = [await pixelsOf(plain.image), await pixelsOf(without.image)];
    const difference = (other: typeof halves, from: number, to: number): number => {
      let most = 0;
      for (let y = 0; y < halves.height; y++) {
        for (let i = 3 * (y * halves.width + from); i < 3 * (y * halves.width + to); i++) {
          most = Math.max(most, Math.abs((halves.data[i] ?? 0) - (other.data[i] ?? 0)));
        }
      }
      return most;
    };
    // Outer quarters: further from the edge of the map than the decoder sees.
    const { width } = halves;
    expect(difference(left, 0, width / 4)).toBeLessThanOrEqual(1);
    expect(difference(right, (3 * width) / 4, width)).toBeLessThanOrEqual(1);
  });

  it('goes into the recipe', async () => {
    const map = await grey([128], 1);
    const { image } = await run(photo, model, {}, { maps: { pix: map } });
    const { exif } = await sharp(image).metadata();
    expect(exif?.toString('latin1')).toContain('"pix_map":true');
  });
});
