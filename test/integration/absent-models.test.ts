/** Workers that do not have the same models, as while a roll-out changes the model of the service. */
import { randomUUID } from 'node:crypto';
import { cp, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, test, vi } from 'vitest';
import type { UpscaleJobData } from '../../src/jobs/job.ts';
import { locateModel } from '../../src/jobs/worker-registry.ts';
import { metrics } from '../../src/metrics.ts';
import type { RunningWorker } from '../../src/worker/start-worker.ts';
import { type Build, buildService, root } from '../support/build.ts';
import { startWorkerBench, testImage, type WorkerBench } from '../support/worker.ts';

let build: Build;
let bench: WorkerBench;
let models: string;
let image: Buffer;

beforeAll(async () => {
  build = await buildService();
  models = await mkdtemp(path.join(tmpdir(), 'pisa-models-'));
  for (const name of ['identity', 'blur']) {
    const bundle = path.join(root, 'test/fixtures/bundles', name);
    await cp(bundle, path.join(models, `only-${name}`, name), { recursive: true });
  }
  image = await testImage(24);
});
afterAll(async () => {
  await rm(models, { recursive: true });
  await build.remove();
});
beforeEach(async () => {
  bench = await startWorkerBench(build);
});
afterEach(() => bench?.stop());

/** A worker that has this model and no other. */
async function startWorkerWith(model: string): Promise<RunningWorker> {
  const worker = await bench.startWorker({
    MODEL: model,
    MODELS_DIR: path.join(models, `only-${model}`),
  });
  await worker.ready;
  return worker;
}

const submit = (model: string, data: Partial<UpscaleJobData> = {}, id = randomUUID()) =>
  bench.submit(image, { model }, { isDefaultModel: true, ...data }, id);

/** Submits a job for `blur`; resolves when a worker without it has given it back. */
async function submitInVain(data: Partial<UpscaleJobData> = {}): Promise<string> {
  const id = randomUUID();
  const delayed = bench.event(id, 'delayed');
  await submit('blur', data, id);
  await delayed;
  return id;
}

const attemptsMade = async (id: string): Promise<number> =>
  Number(await bench.redis.client.hget(`bull:upscale:${id}`, 'atm'));

/** As if it had been accepted so long ago. */
const makeOlder = (id: string, ms: number) =>
  bench.redis.client.hset(`bull:upscale:${id}`, 'timestamp', Date.now() - ms);

const takeNow = async (id: string): Promise<void> => {
  // On a busy machine its time may have come meanwhile.
  await (await bench.inspector.getJob(id))?.promote().catch(() => {});
};

const hour = 3_600_000;

/** As if no worker had been ready with the model since. */
async function seenLongAgo(model: string): Promise<void> {
  const text = (await bench.redis.client.hget('pisa:models', model)) ?? '';
  const seen = { ...JSON.parse(text), seenAt: Date.now() - hour };
  await bench.redis.client.hset('pisa:models', model, JSON.stringify(seen));
}

test('a job that comes to a worker without its model is done by one that starts with it', async () => {
  await startWorkerWith('identity');
  const absent = async (): Promise<number> =>
    (await metrics.jobAttemptsLost.get()).values.find(
      ({ labels }) => labels.reason === 'model_absent',
    )?.value ?? 0;
  const before = await absent();
  const id = await submitInVain();
  expect(await absent()).toBeGreaterThan(before);
  const waiting = bench.ended(id);
  expect(await bench.queue.get(id)).toMatchObject({ status: 'queued' });
  await startWorkerWith('blur');
  expect(await waiting).toMatchObject({
    status: 'succeeded',
    result: { model: { name: 'blur' } },
  });
  expect(await attemptsMade(id)).toBe(1);
});

test('jobs for both models are done while both workers take from the queue', async () => {
  await Promise.all([startWorkerWith('identity'), startWorkerWith('blur')]);
  const names = ['blur', 'identity', 'blur', 'blur', 'identity', 'identity'];
  const ids = await Promise.all(names.map((name) => submit(name)));
  const jobs = await Promise.all(ids.map((id) => bench.ended(id)));
  expect(jobs.map(({ result }) => result?.model.name)).toEqual(names);
});

test('a job for the model of an api that no worker ever has ends with unknown_model', async () => {
  await startWorkerWith('identity');
  const id = await submitInVain();
  // More than the old worker may take to end, and a new one to start.
  await makeOlder(id, hour);
  await takeNow(id);
  expect(await bench.ended(id)).toMatchObject({
    status: 'failed',
    error: { code: 'unknown_model', message: expect.stringContaining('identity') },
  });
  expect(await attemptsMade(id)).toBe(1);
});

test('a job for a model that was named waits while workers had it lately, and no longer', async () => {
  const withIt = await startWorkerWith('blur');
  await startWorkerWith('identity');
  await withIt.close();
  const id = await submitInVain({ isDefaultModel: false });
  await seenLongAgo('blur');
  await takeNow(id);
  expect(await bench.ended(id)).toMatchObject({ error: { code: 'unknown_model' } });
});

test('a model is known while the first worker that has it warms up, and its jobs wait for it', async () => {
  vi.stubEnv('TEST_BUILD', build.folder);
  const warming = await bench.startWorker(
    { MODEL: 'blur', MODELS_DIR: path.join(models, 'only-blur') },
    { deviceProgram: path.join(root, 'test/support/warming-device.mjs') },
  );
  vi.unstubAllEnvs();
  const known = async () => (await bench.queue.models()).map(({ name }) => name);
  await expect.poll(known, { timeout: 60_000 }).toEqual(['blur']);
  await startWorkerWith('identity');
  const id = await submitInVain({ isDefaultModel: false });
  expect(await bench.queue.get(id)).toMatchObject({ status: 'queued' });
  // The last worker that was ready with it has been gone for long.
  await seenLongAgo('blur');
  const next = await submitInVain({ isDefaultModel: false });
  expect(await bench.queue.get(next)).toMatchObject({ status: 'queued' });
  // One that has waited for as long as a roll-out may take waits no more.
  await makeOlder(next, hour);
  await takeNow(next);
  expect(await bench.ended(next)).toMatchObject({ error: { code: 'unknown_model' } });
  await warming.close();
});

test('a job that was given back keeps its priority, and comes after those that wait', async () => {
  const worker = await startWorkerWith('identity');
  const [batch, interactive] = [
    await submitInVain({ priority: 'batch' }),
    await submitInVain({ priority: 'interactive' }),
  ];
  await worker.close();
  const nextBatch = await submit('blur', { priority: 'batch' });
  const next = await submit('blur');
  await takeNow(batch);
  await takeNow(interactive);
  const places = [next, interactive, nextBatch, batch].map((id) => bench.queue.get(id));
  expect((await Promise.all(places)).map((job) => job?.queuePosition)).toEqual([0, 1, 2, 3]);
});

test('a job that was given back can be canceled, and is seen to wait', async () => {
  const worker = await startWorkerWith('identity');
  const id = await submitInVain();
  await worker.close();
  await makeOlder(id, hour);
  const { queued, oldestWaitMs } = await bench.queue.observe();
  expect([queued, oldestWaitMs.batch]).toEqual([1, 0]);
  expect(oldestWaitMs.interactive).toBeGreaterThanOrEqual(hour);
  expect(await bench.queue.remove(id)).toMatchObject({ outcome: 'canceled' });
  expect(await bench.inspector.getJob(id)).toBeUndefined();
});

test('a job whose model a worker could not open is left to one that can', async () => {
  const damaged = path.join(models, 'damaged');
  await cp(path.join(models, 'only-identity'), damaged, { recursive: true });
  await cp(path.join(models, 'only-blur'), damaged, { recursive: true });
  await writeFile(path.join(damaged, 'blur/unet.onnx'), 'not a graph');
  const worker = await bench.startWorker({ MODEL: 'identity', MODELS_DIR: damaged });
  await worker.ready;
  const first = await bench.ended(await submit('blur'));
  expect(first).toMatchObject({ status: 'failed', error: { code: 'model_failed' } });
  const isOffered = async () => (await locateModel(bench.redis.client, 'blur')).available;
  await expect.poll(isOffered).toBe(false);
  await startWorkerWith('blur');
  await expect.poll(isOffered).toBe(true);
  const ids = await Promise.all(['blur', 'blur', 'blur', 'blur'].map((name) => submit(name)));
  for (const id of ids) expect((await bench.ended(id)).status).toBe('succeeded');
});
