/** Runs the pipeline as the tests need it: small bundles on the CPU, PNG out, pixels back. */
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { onTestFinished } from 'vitest';
import { sharp } from '../../../src/images/sharp-policy.ts';
import { type UpscaleParams, upscaleDefaults } from '../../../src/jobs/params.ts';
import type { Manifest } from '../../../src/pipeline/manifest.ts';
import { loadModel, type Model } from '../../../src/pipeline/model.ts';
import type { UpscaleContext, UpscaleResult } from '../../../src/pipeline/run.ts';
import { upscale } from '../../../src/pipeline/upscale.ts';
import { bundlePath } from './fixtures.ts';

const limits = {
  maxInputPixels: 4_194_304,
  maxOutputPixels: 67_108_864,
  maxRestoredPixels: 67_108_864,
};

export const loadOnCpu = (bundleDir: string): Promise<Model> =>
  loadModel(bundleDir, { executionProvider: 'cpu', threads: 1 });

/** A copy of a bundle with another manifest, for the length of one test. */
export async function changedBundle(
  bundleDir: string,
  change: (manifest: Manifest) => void,
): Promise<string> {
  const folder = await mkdtemp(path.join(tmpdir(), 'pisa-bundle-'));
  onTestFinished(() => rm(folder, { recursive: true }));
  const copy = path.join(folder, path.basename(bundleDir));
  await cp(bundleDir, copy, { recursive: true });
  const file = path.join(copy, 'manifest.json');
  const manifest = JSON.parse(await readFile(file, 'utf8')) as Manifest;
  change(manifest);
  await writeFile(file, JSON.stringify(manifest));
  return copy;
}

/**
 * The identity bundle as a model for every scale: what it restores is the output, so its results are exact. Goes with the
 * test.
 */
export async function loadExactIdentity(): Promise<Model> {
  const bundle = await changedBundle(bundlePath('identity'), (manifest) => {
    manifest.scale = 1;
  });
  const model = await loadOnCpu(bundle);
  onTestFinished(() => model.dispose());
  return model;
}

export async function run(
  lowRes: Uint8Array,
  model: Model,
  params: Partial<UpscaleParams> = {},
  context: Partial<UpscaleContext> = {},
): Promise<UpscaleResult> {
  const defaults = { ...upscaleDefaults, model: model.manifest.name };
  return upscale(lowRes, { ...defaults, ...params }, { model, limits, ...context });
}

export interface Pixels {
  data: Uint8Array;
  width: number;
  height: number;
  channels: number;
}

/** The stored samples of an image file, as they are: no profile, no orientation. */
export async function pixelsOf(image: Uint8Array): Promise<Pixels> {
  const { data, info } = await sharp(image, { ignoreIcc: true })
    .raw()
    .toBuffer({ resolveWithObject: true });
  return { data, width: info.width, height: info.height, channels: info.channels };
}

/** A smooth picture with some texture: RGB, 8 bits, lossless. */
export function picture(width: number, height: number, channels: 3 | 4 = 3): Promise<Buffer> {
  const data = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let c = 0; c < channels; c++) {
        const wave = Math.sin(0.13 * x + c) * Math.cos(0.07 * y - c) + 0.3 * Math.sin(x * y + c);
        data[(y * width + x) * channels + c] = 127 + 90 * wave;
      }
    }
  }
  return sharp(data, { raw: { width, height, channels } }).png().toBuffer();
}
