import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, onTestFinished, test, vi } from 'vitest';
import type { Manifest } from '../../../src/pipeline/manifest.ts';
import { GraphSession } from '../../../src/pipeline/session.ts';
import {
  executionProviderOf,
  openModels,
} from '../../../src/worker/device-process/loaded-models.ts';
import type { ModelChange, UnopenedModel } from '../../../src/worker/protocol.ts';

const modelsDir = path.resolve(import.meta.dirname, '../../fixtures/bundles');
const settings = { device: 'cpu', threads: 1, modelsDir, modelBudgetBytes: 1e9 };

describe('openModels', () => {
  test('loads a model once, however many jobs ask for it at the same time', async () => {
    const changes: ModelChange[] = [];
    const models = await openModels(settings, (change) => changes.push(change));
    const use = () => models.use('identity', undefined, (model) => model);
    const [one, two] = await Promise.all([use(), use()]);
    expect(one).toBe(two);
    expect(await use()).toBe(one);
    expect(changes).toEqual([
      { model: 'identity', bytes: expect.any(Number), milliseconds: expect.any(Number) },
    ]);
    await one.dispose();
  });

  test('summarises every bundle of the folder without loading it', async () => {
    const { summaries } = await openModels(settings);
    expect(summaries.map(({ name }) => name)).toContain('identity');
    expect(summaries.find(({ name }) => name === 'identity')).toEqual({
      name: 'identity',
      version: '1.0.0',
      sha256: expect.stringMatching(/^[0-9a-f]{64}$/),
      license: 'Apache-2.0',
      source: 'test/fixtures/bundles/make_identity_bundle.py',
      description: 'A toy bundle for tests.',
      scale: 4,
      colorfix: 'none',
    });
  });

  test.each(['pisa-huge', '..', 'identity/../identity'])('knows no model %s', async (name) => {
    const models = await openModels(settings);
    await expect(models.use(name, undefined, () => {})).rejects.toMatchObject({
      code: 'unknown_model',
      message: expect.stringContaining('identity'),
    });
  });
});

test('a model that cannot be warmed up leaves no session open', async () => {
  const release = vi.spyOn(GraphSession.prototype, 'release');
  const run = vi.spyOn(GraphSession.prototype, 'run').mockRejectedValue(new Error('no memory'));
  onTestFinished(() => {
    for (const spy of [release, run]) spy.mockRestore();
  });
  const changes: ModelChange[] = [];
  const models = await openModels(settings, (change) => changes.push(change));
  await expect(models.use('identity', undefined, () => {})).rejects.toThrow('no memory');
  expect([release.mock.calls.length, changes]).toEqual([3, []]);
});

test('tells of a bundle that cannot be opened as it is, and not of one that fails otherwise', async () => {
  const unopened: UnopenedModel[] = [];
  const small = { ...settings, modelBudgetBytes: 1 };
  const models = await openModels(
    small,
    () => {},
    (one) => unopened.push(one),
  );
  await expect(models.use('identity', undefined, () => {})).rejects.toMatchObject({
    code: 'model_too_large',
  });
  await expect(models.use('pisa-huge', undefined, () => {})).rejects.toMatchObject({
    code: 'unknown_model',
  });
  expect(unopened).toEqual([
    {
      model: 'identity',
      stamp: expect.stringContaining('unet.onnx'),
      detail: expect.stringContaining('MODEL_MEMORY_MEGABYTES'),
    },
  ]);
});

describe('a memory budget', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(path.join(tmpdir(), 'pisa-models-'));
    await mkdir(folder, { recursive: true });
    for (const name of ['identity', 'blur']) {
      await cp(path.join(modelsDir, name), path.join(folder, name), { recursive: true });
      const file = path.join(folder, name, 'manifest.json');
      const manifest = JSON.parse(await readFile(file, 'utf8')) as Manifest;
      // 16² cells of a tile × a million: 256 MB.
      manifest.graphs.decoder.activationBytesPerCell = 1_000_000;
      await writeFile(file, JSON.stringify(manifest));
    }
  });
  afterAll(() => rm(folder, { recursive: true }));

  test('of one model has never two, and each gives its own', async () => {
    const changes: ModelChange[] = [];
    const models = await openModels(
      { ...settings, modelsDir: folder, modelBudgetBytes: 400e6 },
      (change) => changes.push(change),
    );
    const shas = new Set<string>();
    for (const name of ['identity', 'blur', 'identity']) {
      await models.use(name, undefined, (model) => {
        expect(model.manifest.name).toBe(name);
        shas.add(model.sha256);
      });
    }
    expect(changes.map(({ model, bytes }) => `${model} ${bytes >= 256e6 ? 'in' : bytes}`)).toEqual([
      'identity in',
      'identity 0',
      'blur in',
      'blur 0',
      'identity in',
    ]);
    expect(shas.size).toBe(2);
  });

  test('that a model exceeds is said before it is loaded', async () => {
    const changes: ModelChange[] = [];
    const models = await openModels(
      { ...settings, modelsDir: folder, modelBudgetBytes: 200e6 },
      (change) => changes.push(change),
    );
    await expect(models.use('blur', undefined, () => {})).rejects.toMatchObject({
      code: 'model_too_large',
      message: expect.stringMatching(/blur needs about 257 MB .* MODEL_MEMORY_MEGABYTES .* 257/),
    });
    expect(changes).toEqual([]);
  });

  test('that those to preload exceed together ends the start', async () => {
    const models = await openModels({ ...settings, modelsDir: folder, modelBudgetBytes: 400e6 });
    await models.preload(['blur']);
    await expect(models.preload(['identity', 'blur'])).rejects.toMatchObject({
      code: 'model_too_large',
      message: expect.stringMatching(/identity, blur \(MODEL and PRELOAD_MODELS\) together need/),
    });
  });
});

test.each([
  ['cpu', 'cpu'],
  ['webgpu', 'webgpu'],
  ['cuda:12', { cuda: 12 }],
])('the device %s is the execution provider %j', (device, provider) => {
  expect(executionProviderOf(device)).toEqual(provider);
});
