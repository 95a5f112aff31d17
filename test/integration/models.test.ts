/** Several bundles in one device process: under a memory budget, preloaded, too large, and short of disk. */
import { readFileSync } from 'node:fs';
import { cp, mkdtemp, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { outputKey } from '../../src/jobs/job.ts';
import { metrics } from '../../src/metrics.ts';
import type { Manifest } from '../../src/pipeline/manifest.ts';
import { type Build, buildService, root } from '../support/build.ts';
import { devicesOf } from '../support/processes.ts';
import { startWorkerBench, testImage, type WorkerBench } from '../support/worker.ts';

let build: Build;
let bench: WorkerBench;
let modelsDir: string;

beforeAll(async () => {
  build = await buildService();
  modelsDir = await mkdtemp(path.join(tmpdir(), 'pisa-models-'));
  await addBundle('bundles/identity', ({ graphs }) => {
    // A tile of 16² cells × a million bytes: 256 MB.
    graphs.decoder.activationBytesPerCell = 1_000_000;
  });
  await addBundle('bundles/blur', ({ graphs }) => {
    graphs.decoder.activationBytesPerCell = 1_000_000;
  });
  await addBundle('stages/sd-small', ({ graphs }) => {
    graphs.encoder.tileLatents = 40;
  });
});
afterAll(async () => {
  await rm(modelsDir, { recursive: true });
  await build.remove();
});
beforeEach(async () => {
  bench = await startWorkerBench(build);
});
afterEach(() => bench?.stop());

async function addBundle(fixture: string, change: (manifest: Manifest) => void): Promise<void> {
  const folder = path.join(modelsDir, path.basename(fixture));
  await cp(path.join(root, 'test/fixtures', fixture), folder, { recursive: true });
  const file = path.join(folder, 'manifest.json');
  const manifest = JSON.parse(await readFile(file, 'utf8')) as Manifest;
  change(manifest);
  await writeFile(file, JSON.stringify(manifest));
}

const startWorker = (env: Record<string, string> = {}) =>
  bench.startWorker({ MODELS_DIR: modelsDir, ...env });

/** What the log says of models: `+name` for each that was loaded, `-name` for each unloaded. */
const changes = (): string[] =>
  bench.log
    .filter(({ msg }) => String(msg).startsWith('model '))
    .map(({ msg, model }) => `${msg === 'model loaded' ? '+' : '-'}${model}`);

/** Loads and unloads of all models so far, as the metrics tell them. */
async function modelCounts(): Promise<{ loads: number; unloads: number }> {
  const loads = (await metrics.modelLoadSeconds.get()).values.filter(({ metricName }) =>
    metricName?.endsWith('_count'),
  );
  const unloads = (await metrics.modelUnloads.get()).values;
  const sum = (values: { value: number }[]) => values.reduce((all, { value }) => all + value, 0);
  return { loads: sum(loads), unloads: sum(unloads) };
}

/** As `GET /models` tells it. */
const isAvailable = async (model: string): Promise<boolean | undefined> =>
  (await bench.queue.models()).find(({ name }) => name === model)?.available;

async function run(model: string, image: Uint8Array) {
  const job = await bench.ended(await bench.submit(image, { model }));
  return { job, bytes: await bench.store.get(outputKey(job.id)) };
}

describe('a budget that has room for one of two models', () => {
  test('serves both alternately, never has both, and each gives what it gives alone', async () => {
    const image = await testImage(100);
    const alone = await startWorker();
    await alone.ready;
    const expected = {
      identity: (await run('identity', image)).bytes,
      blur: (await run('blur', image)).bytes,
    };
    expect(expected.identity?.equals(expected.blur as Buffer)).toBe(false);
    expect(changes()).toEqual(['+identity', '+blur']);
    await alone.close();
    expect((await metrics.modelMemoryBytes.get()).values).toEqual([]);
    bench.log.length = 0;

    const before = await modelCounts();
    const worker = await startWorker({ MODEL_MEMORY_MEGABYTES: '400' });
    await worker.ready;
    const names = ['blur', 'identity', 'blur', 'blur', 'identity', 'identity', 'blur'] as const;
    // All at once: two of them are in the process at any time.
    const ended = await Promise.all(names.map((name) => run(name, image)));
    for (const [i, { job, bytes }] of ended.entries()) {
      const name = names[i] as (typeof names)[number];
      expect(job.result?.model.name).toBe(name);
      expect(bytes?.equals(expected[name] as Buffer)).toBe(true);
    }
    const loaded = new Set<string>();
    for (const change of changes()) {
      if (change.startsWith('+')) loaded.add(change.slice(1));
      else loaded.delete(change.slice(1));
      expect(loaded.size).toBeLessThan(2);
    }
    expect(changes().length).toBeGreaterThan(2);
    const counted = await modelCounts();
    const of = (sign: string) => changes().filter((change) => change.startsWith(sign)).length;
    expect(counted.loads - before.loads).toBe(of('+'));
    expect(counted.unloads - before.unloads).toBe(of('-'));
    const { values } = await metrics.modelMemoryBytes.get();
    expect(values.map(({ labels }) => labels.model)).toEqual([...loaded]);
    expect(values[0]?.value).toBeGreaterThanOrEqual(256e6);
  });

  test('does not start when both are to be preloaded', async () => {
    const env = { MODEL_MEMORY_MEGABYTES: '400', PRELOAD_MODELS: 'blur' };
    const worker = await startWorker(env);
    await expect(worker.ready).rejects.toMatchObject({
      code: 'model_too_large',
      message: expect.stringContaining('MODEL_MEMORY_MEGABYTES'),
    });
  });
});

test('preloaded models are loaded before the device is ready, and not again', async () => {
  const worker = await startWorker({ PRELOAD_MODELS: 'blur' });
  await worker.ready;
  expect(changes()).toEqual(['+identity', '+blur']);
  expect((await run('blur', await testImage(24))).job.status).toBe('succeeded');
  expect(changes()).toEqual(['+identity', '+blur']);
});

test('a device process does not let ONNX Runtime report to its makers', async () => {
  const worker = await startWorker();
  await worker.ready;
  const environment = readFileSync(`/proc/${devicesOf(process.pid)[0]}/environ`, 'utf8');
  expect(environment.split('\0')).toContain('ORT_DISABLE_TELEMETRY=1');
});

describe('a model that is larger than the budget', () => {
  test('ends the start when it is the default', async () => {
    const worker = await startWorker({ MODEL_MEMORY_MEGABYTES: '200' });
    await expect(worker.ready).rejects.toMatchObject({
      code: 'model_too_large',
      message: expect.stringMatching(/identity needs about 257 MB .* the 200 MB/),
    });
  });

  test('fails its jobs at once, and no others', async () => {
    const worker = await startWorker({ MODEL_MEMORY_MEGABYTES: '200', MODEL: 'sd-small' });
    await worker.ready;
    const { job } = await run('identity', await testImage(24));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'model_too_large' } });
    await expect.poll(() => isAvailable('identity')).toBe(false);
    expect((await run('sd-small', await testImage(8))).job.status).toBe('succeeded');
  });
});

test('a model whose bundle has gone fails its jobs, and tells clients of no folder', async () => {
  await addBundle('bundles/identity-fp16', () => {});
  const worker = await startWorker();
  await worker.ready;
  await rm(path.join(modelsDir, 'identity-fp16'), { recursive: true });
  const { job } = await run('identity-fp16', await testImage(24));
  expect(job).toMatchObject({ status: 'failed', error: { code: 'model_failed' } });
  expect(job.error?.message).not.toContain(modelsDir);
  expect(JSON.stringify(bench.log)).toContain(`${modelsDir}/identity-fp16/manifest.json`);
});

test('a model that cannot be opened is not offered until its files have changed', async () => {
  const unopened = () =>
    bench.log.filter(
      ({ msg }) => msg === 'the model cannot be opened, and is not offered as it is',
    );
  await addBundle('bundles/identity-fp16', () => {});
  const graph = path.join(modelsDir, 'identity-fp16', 'unet.onnx');
  const whole = await readFile(graph);
  await writeFile(graph, whole.subarray(0, 100));
  const worker = await startWorker();
  await worker.ready;
  expect(await isAvailable('identity-fp16')).toBe(true);
  const image = await testImage(24);
  // No other worker has it: the second one is tried, too, and says the same.
  for (const _ of ['first', 'second']) {
    const { job } = await run('identity-fp16', image);
    expect(job).toMatchObject({ status: 'failed', error: { code: 'model_failed' } });
    await expect.poll(() => isAvailable('identity-fp16')).toBe(false);
  }
  expect(unopened()).toEqual([
    expect.objectContaining({
      model: 'identity-fp16',
      detail: expect.stringMatching(/unet\.onnx cannot be loaded: .*`pisa-serve models verify`/),
    }),
  ]);
  expect(await isAvailable('identity')).toBe(true);
  await writeFile(graph, whole);
  await expect.poll(() => isAvailable('identity-fp16'), { timeout: 30_000 }).toBe(true);
  expect((await run('identity-fp16', image)).job.status).toBe('succeeded');
});

test('a model that could not be opened is offered again once it opens', async () => {
  await addBundle('bundles/identity-fp16', () => {});
  const folder = path.join(modelsDir, 'identity-fp16');
  const worker = await startWorker();
  await worker.ready;
  await rename(folder, `${folder}-away`);
  const image = await testImage(24);
  expect((await run('identity-fp16', image)).job.status).toBe('failed');
  await expect.poll(() => isAvailable('identity-fp16')).toBe(false);
  await rename(`${folder}-away`, folder);
  expect((await run('identity-fp16', image)).job.status).toBe('succeeded');
  await expect.poll(() => isAvailable('identity-fp16')).toBe(true);
});

test('a model whose first run fails ends the start in the words of ONNX Runtime', async () => {
  await addBundle('bundles/identity-fp16', ({ latents }) => {
    // Half of what the encoder does.
    latents.downscale = 8;
  });
  const worker = await startWorker({ MODEL: 'identity-fp16' });
  await expect(worker.ready).rejects.toMatchObject({
    code: 'device_unavailable',
    message: expect.stringMatching(/^The device cpu cannot be used: .*computed output shape/),
  });
});

test('a temporary folder that cannot be written is a problem that names TMPDIR', async () => {
  const before = process.env.TMPDIR;
  process.env.TMPDIR = '/nowhere/tmp';
  const worker = await startWorker({ MODEL: 'sd-small' });
  process.env.TMPDIR = before;
  if (before === undefined) delete process.env.TMPDIR;
  await worker.ready;
  // 112² → 448²: more than the encoder's tile of 320².
  const { job } = await run('sd-small', await testImage(112));
  expect(job).toMatchObject({
    status: 'failed',
    error: { code: 'disk_full', message: expect.stringMatching(/\/nowhere\/tmp .* TMPDIR/) },
  });
  expect((await run('sd-small', await testImage(8))).job.status).toBe('succeeded');
});
