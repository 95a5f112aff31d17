/** Jobs that are stopped while something takes long that cannot be broken off: the load of a model. */
import { execFileSync } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { outputKey } from '../../src/jobs/job.ts';
import { type Build, buildService, root } from '../support/build.ts';
import { devicesOf } from '../support/processes.ts';
import { startWorkerBench, testImage, testTimes, type WorkerBench } from '../support/worker.ts';

let build: Build;
let bench: WorkerBench;
let modelsDir: string;
let manifestFile: string;
let manifest: Buffer;

beforeAll(async () => {
  build = await buildService();
});
afterAll(() => build.remove());
beforeEach(async () => {
  bench = await startWorkerBench(build);
  modelsDir = await mkdtemp(path.join(tmpdir(), 'pisa-models-'));
  for (const name of ['identity', 'blur']) {
    const fixture = path.join(root, 'test/fixtures/bundles', name);
    await cp(fixture, path.join(modelsDir, name), { recursive: true });
  }
  manifestFile = path.join(modelsDir, 'blur/manifest.json');
  manifest = await readFile(manifestFile);
});
afterEach(async () => {
  await bench?.stop();
  await rm(modelsDir, { recursive: true });
});

/** A worker in which `blur` loads until `endLoad`: whoever opens a pipe waits for somebody at its other end. */
async function startWorker(env: Record<string, string> = {}): Promise<number | undefined> {
  const times = { ...testTimes, abortGraceMs: 1000 };
  const worker = await bench.startWorker({ MODELS_DIR: modelsDir, ...env }, { times });
  await worker.ready;
  await rm(manifestFile);
  execFileSync('mkfifo', [manifestFile]);
  return devicesOf(process.pid)[0];
}
const endLoad = () => writeFile(manifestFile, manifest);

const submitTo = async (model: string, timeoutMs = 120_000) =>
  bench.submit(await testImage(24), { model }, { timeoutMs });

/** Where in the log a line is, which says this and has these facts. */
const lineOf = (msg: string, facts: Record<string, unknown>): number =>
  bench.log.findIndex(
    (line) =>
      line.msg === msg && Object.entries(facts).every(([name, value]) => line[name] === value),
  );

describe('a model that takes long to load', () => {
  test('costs a job with a short time limit its result, and others nothing', async () => {
    const device = await startWorker();
    const bystander = await bench.submit(await testImage(300));
    await bench.event(bystander, 'progress');
    const stopped = await submitTo('blur', 1000);
    expect(await bench.ended(stopped)).toMatchObject({
      status: 'failed',
      error: { code: 'job_timeout' },
    });
    expect(await bench.ended(bystander)).toMatchObject({ status: 'succeeded' });
    const attempts = await bench.redis.client.hget(`bull:upscale:${bystander}`, 'atm');
    expect(Number(attempts)).toBe(1);

    const next = await submitTo('blur');
    await endLoad();
    expect(await bench.ended(next)).toMatchObject({ status: 'succeeded' });
    expect(
      bench.log.filter(({ msg, model }) => msg === 'model loaded' && model === 'blur'),
    ).toEqual([expect.anything()]);
    expect(devicesOf(process.pid)).toEqual([device]);
    expect(await bench.store.has(outputKey(stopped))).toBe(false);
  });

  test('can be cancelled while it does; the place in the device is free when it is loaded', async () => {
    const device = await startWorker({ JOBS_PER_DEVICE: '1' });
    const canceled = await submitTo('blur');
    await expect
      .poll(() => lineOf('job begun in the device process', { job: canceled }))
      .toBeGreaterThan(0);
    expect(await bench.queue.remove(canceled)).toMatchObject({ outcome: 'canceled' });
    await bench.finished(canceled);
    const next = randomUUID();
    const taken = bench.event(next, 'active');
    await bench.submit(await testImage(24), {}, {}, next);
    await taken;
    await endLoad();
    expect(await bench.ended(next)).toMatchObject({ status: 'succeeded' });
    const loaded = lineOf('model loaded', { model: 'blur' });
    expect(loaded).toBeGreaterThan(0);
    expect(lineOf('job begun in the device process', { job: next })).toBeGreaterThan(loaded);
    expect(devicesOf(process.pid)).toEqual([device]);
  });
});
