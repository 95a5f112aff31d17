import { createHash } from 'node:crypto';
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  listBundles,
  loadManifest,
  parseManifest,
  verifyBundle,
} from '../../../src/pipeline/manifest.ts';
import { bundlePath, embeddedBundle, fixturePath } from './fixtures.ts';

let folder: string;
let text: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-bundles-'));
  text = await readFile(path.join(bundlePath('identity'), 'manifest.json'), 'utf8');
});
afterAll(() => rm(folder, { recursive: true }));

// biome-ignore lint/suspicious/noExplicitAny: the tests write what no type would allow
const changed = (change: (manifest: any) => void): string => {
  const manifest = JSON.parse(text);
  change(manifest);
  return JSON.stringify(manifest);
};

describe('parseManifest', () => {
  it('takes a good manifest', () => {
    expect(parseManifest(text, 'here').latents).toEqual({ channels: 48, downscale: 4 });
  });

  it.each([
    ['no JSON', () => '{', /is not JSON/],
    ['a missing graph', () => changed((m) => delete m.graphs.unet), /graphs.*unet/],
    ['an unknown version', () => changed((m) => (m.schemaVersion = 2)), /\/schemaVersion/],
    ['an unknown key', () => changed((m) => (m.colour = 1)), /additional/],
    ['a path outside', () => changed((m) => (m.graphs.unet.file = '../x.onnx')), /unet\/file/],
    ['a dtype', () => changed((m) => (m.graphs.unet.dtype = 'int8')), /unet\/dtype/],
    ['multipleOf', () => changed((m) => (m.multipleOf = 6)), /a multiple of latents.downscale/],
    ['tile', () => changed((m) => (m.graphs.unet.tileLatents = 15)), /unet.tileLatents/],
    ['overlap', () => changed((m) => (m.graphs.unet.overlapLatents = 16)), /so that tiles advance/],
    [
      'tiles of other devices that do not fit the graphs',
      () =>
        changed((m) => (m.tilesByMemory = [{ gigabytes: 6, encoder: 24, unet: 8, decoder: 15 }])),
      /at least 10 .* for tilesByMemory.0.unet but received 8; Expected a multiple of 2 for tilesByMemory.0.decoder/,
    ],
    [
      'tiles of devices out of order',
      () =>
        changed((m) => {
          const tiles = { encoder: 24, unet: 24, decoder: 24 };
          m.tilesByMemory = [12, 6].map((gigabytes) => ({ gigabytes, ...tiles }));
        }),
      /more than 12 for tilesByMemory.1.gigabytes but received 6/,
    ],
    [
      'a halo too small for the receptive radius',
      () => changed((m) => (m.graphs.decoder.receptiveRadiusLatents = 5)),
      /at least 2 × receptiveRadiusLatents \(10\) for graphs.decoder.overlapLatents but received 8/,
    ],
  ])('refuses %s and says why', (_, make, reason) => {
    expect(() => parseManifest(make(), 'here')).toThrow(reason);
    try {
      parseManifest(make(), 'here');
    } catch (error) {
      expect(error).toMatchObject({ code: 'invalid_bundle' });
    }
  });
});

describe('bundles on disk', () => {
  it('verifies the embedded bundle and the toy ones', async () => {
    for (const dir of [embeddedBundle, ...['identity', 'blur'].map(bundlePath)]) {
      expect((await verifyBundle(dir)).name).toBe(path.basename(dir));
    }
  });

  it('lists folders with a manifest, by name', async () => {
    const names = (await listBundles(fixturePath('bundles'))).map((manifest) => manifest.name);
    expect(names).toEqual(['blur', 'identity', 'identity-fp16']);
    await expect(listBundles(path.join(folder, 'none'))).rejects.toMatchObject({
      code: 'invalid_bundle',
    });
  });

  it('names a changed, a shorter and a missing file', async () => {
    const dir = path.join(folder, 'identity');
    await cp(bundlePath('identity'), dir, { recursive: true });
    const encoder = await readFile(path.join(dir, 'encoder.onnx'));
    encoder[100] = (encoder[100] as number) ^ 1;
    await writeFile(path.join(dir, 'encoder.onnx'), encoder);
    await writeFile(path.join(dir, 'unet.onnx'), 'short');
    await rm(path.join(dir, 'decoder.onnx'));
    const verdict = verifyBundle(dir);
    await expect(verdict).rejects.toThrow(/encoder.onnx has another sha256/);
    await expect(verdict).rejects.toThrow(/467 bytes for unet.onnx but received 5/);
    await expect(verdict).rejects.toThrow(/decoder.onnx is missing/);
  });

  it('verifies the weights beside a graph as the graph itself', async () => {
    const dir = path.join(folder, 'beside', 'identity');
    await cp(bundlePath('identity'), dir, { recursive: true });
    const sha256 = createHash('sha256').update('weights').digest('hex');
    const externalData = [{ file: 'unet.onnx.data', sha256, bytes: 7 }];
    await writeFile(
      path.join(dir, 'manifest.json'),
      changed((m) => (m.graphs.unet.externalData = externalData)),
    );
    await expect(verifyBundle(dir)).rejects.toThrow(/unet.onnx.data is missing/);
    await writeFile(path.join(dir, 'unet.onnx.data'), 'weights');
    expect((await verifyBundle(dir)).graphs.unet.externalData).toEqual(externalData);
    await writeFile(path.join(dir, 'unet.onnx.data'), 'weighty');
    await expect(verifyBundle(dir)).rejects.toThrow(/unet.onnx.data has another sha256/);
    const outside = changed((m) => {
      m.graphs.unet.externalData = [{ file: '../unet.onnx.data', sha256, bytes: 7 }];
    });
    expect(() => parseManifest(outside, 'here')).toThrow(/externalData/);
  });

  it('verifies merged graphs as the gated one', async () => {
    const dir = path.join(folder, 'merged', 'identity');
    await cp(bundlePath('identity'), dir, { recursive: true });
    const sha256 = createHash('sha256').update('graph').digest('hex');
    const entry = (name: string) => ({ file: `unet-${name}.onnx`, sha256, bytes: 5 });
    const merged = { pix: entry('pix'), pisa: entry('pisa') };
    await writeFile(
      path.join(dir, 'manifest.json'),
      changed((m) => (m.graphs.unet.merged = merged)),
    );
    await writeFile(path.join(dir, 'unet-pix.onnx'), 'graph');
    await expect(verifyBundle(dir)).rejects.toThrow(/unet-pisa.onnx is missing/);
    await writeFile(path.join(dir, 'unet-pisa.onnx'), 'graph');
    expect((await verifyBundle(dir)).graphs.unet.merged).toEqual(merged);
    const half = changed((m) => Object.assign(m.graphs.unet, { merged: { pix: entry('pix') } }));
    expect(() => parseManifest(half, 'here')).toThrow(/merged.*pisa/);
  });

  it('refuses a folder without manifest and one with another name', async () => {
    await expect(loadManifest(folder)).rejects.toThrow(/Cannot read .*manifest.json/);
    const dir = path.join(folder, 'other');
    await mkdir(dir);
    await writeFile(path.join(dir, 'manifest.json'), text);
    await expect(loadManifest(dir)).rejects.toThrow(/a bundle is named as its folder/);
  });
});
