/** A worker whose device is gone for good, as a GPU that its container has lost: a bundle that is taken away stands in for it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { devicesOf } from '../support/processes.ts';
import { startRedis, type TestRedis } from '../support/redis.ts';
import { cli, logged, root } from './service.ts';

let redis: TestRedis;
let folder: string;
beforeEach(async () => {
  redis = await startRedis();
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-lost-'));
  cpSync(path.join(root, 'test/fixtures/bundles/blur'), path.join(folder, 'blur'), {
    recursive: true,
  });
});
afterEach(async () => {
  await redis.stop();
  rmSync(folder, { recursive: true });
});

test('ends as one that cannot start does, so that what watches over it starts it again', async () => {
  const worker = spawn(process.execPath, [cli, 'worker'], {
    env: {
      ...process.env,
      REDIS_URL: redis.url,
      WORKER_PORT: '0',
      MODELS_DIR: folder,
      MODEL: 'blur',
      DEVICE_START_SECONDS: '2',
      LOG_LEVEL: 'info',
    },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const ended = once(worker, 'exit');
  let said = '';
  worker.stderr.on('data', (chunk: Buffer) => {
    said += chunk.toString();
  });
  await logged(worker, 'worker is ready');
  const [device = 0] = devicesOf(worker.pid ?? 0);

  // Lost once, it is found again.
  process.kill(device, 'SIGKILL');
  await expect.poll(() => said.split('"the device is ready"').length).toBe(3);

  const [second = 0] = devicesOf(worker.pid ?? 0);
  rmSync(path.join(folder, 'blur'), { recursive: true });
  process.kill(second, 'SIGKILL');
  expect(await ended).toEqual([1, null]);
  expect(said).toMatch(
    /no device of it has been ready for 2 s \(DEVICE_START_SECONDS\), and none could be started again\. MODEL or PRELOAD_MODELS names a bundle that is not in/,
  );
});
