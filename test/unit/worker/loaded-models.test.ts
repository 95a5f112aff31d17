import path from 'node:path';
import { describe, expect, test } from 'vitest';
import { executionProviderOf, openModels } from '../../../src/worker/loaded-models.ts';

const modelsDir = path.resolve(import.meta.dirname, '../../fixtures/bundles');

describe('openModels', () => {
  test('loads a model once, however many jobs ask for it at the same time', async () => {
    const models = await openModels({ device: 'cpu', threads: 1, modelsDir });
    const [one, two] = await Promise.all([models.get('identity'), models.get('identity')]);
    expect(one).toBe(two);
    expect(await models.get('identity')).toBe(one);
    await one.dispose();
  });

  test('summarises every bundle of the folder without loading it', async () => {
    const { summaries } = await openModels({ device: 'cpu', threads: 1, modelsDir });
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
    const models = await openModels({ device: 'cpu', threads: 1, modelsDir });
    await expect(models.get(name)).rejects.toMatchObject({
      code: 'unknown_model',
      message: expect.stringContaining('identity'),
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
