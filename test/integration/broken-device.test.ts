/** Who is charged for a broken GPU, with a real device process: its context breaks by the word of a stand-in. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import pino from 'pino';
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest';
import { inputKey } from '../../src/jobs/job.ts';
import { openStore } from '../../src/storage/open-store.ts';
import { Device } from '../../src/worker/device.ts';
import { HandBack } from '../../src/worker/hand-back.ts';
import { deviceLimits } from '../../src/worker/start-worker.ts';
import { type Build, buildService, root } from '../support/build.ts';
import { jobData, testImage, workerConfig } from '../support/worker.ts';

let build: Build;
let folder: string;
beforeAll(async () => {
  build = await buildService();
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-broken-'));
});
afterAll(async () => {
  await build.remove();
  rmSync(folder, { recursive: true, force: true });
});

test('the job that broke it, though its neighbour hears of it and ends before it has', async () => {
  vi.stubEnv('TEST_BUILD', build.folder);
  onTestFinished(() => {
    vi.unstubAllEnvs();
  });
  const config = workerConfig();
  const store = { kind: 'folder', folder } as const;
  const device = new Device({
    program: path.join(root, 'test/support/breaking-device.mjs'),
    settings: {
      device: 'cpu',
      threads: 1,
      modelsDir: config.MODELS_DIR,
      defaultModel: 'identity',
      preload: [],
      modelBudgetBytes: 1e9,
      store,
      limits: { maxInputPixels: 1e6, maxOutputPixels: 1e7, maxRestoredPixels: 1e7 },
      keepMaxBytes: 1e6,
    },
    logger: pino({ level: 'silent' }),
    limits: deviceLimits(config, { restartDelayMs: 10 }),
  });
  onTestFinished(() => device.stop());
  await device.start();
  const objects = openStore(store, { role: 'producer', sweep: false });
  const run = async (id: string, edge: number) => {
    const image = await testImage(edge);
    await objects.put(inputKey(id), image, 60);
    return device.run(id, jobData(id, image), new AbortController().signal, () => {}).result;
  };
  const [culprit, neighbour] = await Promise.allSettled([run('culprit', 8), run('neighbour', 12)]);
  expect(culprit).toMatchObject({ reason: { code: 'device_lost' } });
  expect(neighbour).toMatchObject({ reason: expect.any(HandBack) });
  await objects.close();
});
