/** Jobs from the queue through a real device process to their end. */
import { stat } from 'node:fs/promises';
import path from 'node:path';
import sharp from 'sharp';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { inputKey, outputKey, stages, tensorKeys } from '../../src/jobs/job.ts';
import type { JobSnapshot } from '../../src/jobs/job-snapshot.ts';
import { metrics, registry } from '../../src/metrics.ts';
import { DeviceChild } from '../../src/worker/device-child.ts';
import { type Build, buildService } from '../support/build.ts';
import { devicesOf, whileStopped } from '../support/processes.ts';
import { jobData, startWorkerBench, testImage, type WorkerBench } from '../support/worker.ts';

let build: Build;
let bench: WorkerBench;
let device: number;

beforeAll(async () => {
  build = await buildService();
  bench = await startWorkerBench(build);
  const worker = await bench.startWorker();
  await worker.ready;
  [device] = devicesOf(process.pid) as [number];
});
afterAll(async () => {
  await bench?.stop();
  await build.remove();
});

const run = async (...args: Parameters<WorkerBench['submit']>): Promise<JobSnapshot> =>
  bench.ended(await bench.submit(...args));

const jobsCounted = async (status: string, code: string): Promise<number> => {
  const { values } = await metrics.jobs.get();
  return values
    .filter(({ labels }) => labels.status === status && labels.code === code)
    .reduce((sum, { value }) => sum + value, 0);
};

describe('a job that succeeds', () => {
  test('leaves its result, its facts, and what other dials need', async () => {
    const job = await run(await testImage(24), { scale: 2.5, format: 'webp', pix: 1, sem: 0.5 });
    expect(job).toMatchObject({
      status: 'succeeded',
      result: {
        output: { key: outputKey(job.id), width: 60, height: 60, content_type: 'image/webp' },
        colorfix: 'none',
        evaluations: 2,
        model: { name: 'identity', version: '1.0.0' },
        device: 'cpu',
      },
    });
    const bytes = await bench.store.get(outputKey(job.id));
    expect(bytes?.byteLength).toBe(job.result?.output.bytes);
    expect(await sharp(bytes).metadata()).toMatchObject({ width: 60, height: 60, format: 'webp' });
    const kept = job.result?.kept.map(({ key }) => key).sort();
    expect(kept).toEqual([...Object.values(tensorKeys(job.id)), inputKey(job.id)].sort());
    for (const key of kept ?? []) expect(await bench.store.has(key)).toBe(true);
  });

  test('keeps all of it for as long as its result, which lives from when it was made', async () => {
    const sem = { pix: 1, sem: 0.5 };
    const { id, startedAt = 0, completedAt = 0, result } = await run(await testImage(200), sem);
    const { expiresAt = 0 } = result?.output ?? {};
    const stagesMs = Object.values(result?.timingsMs ?? {}).reduce((sum, ms) => sum + ms, 0);
    expect(stagesMs).toBeGreaterThan(0);
    // Both ends are whole milliseconds.
    expect(expiresAt - 3_600_000).toBeGreaterThan(startedAt + stagesMs - 1);
    expect(expiresAt - 3_600_000).toBeLessThanOrEqual(completedAt);
    expect(result?.kept.map((object) => object.expiresAt)).toEqual(Array(4).fill(expiresAt));
    // A file of the store lives until its modification time.
    const folder = path.join(bench.redis.folder, 'objects');
    for (const key of [outputKey(id), inputKey(id), ...Object.values(tensorKeys(id))]) {
      const { mtimeMs } = await stat(path.join(folder, key));
      expect(mtimeMs + 1).toBeGreaterThanOrEqual(expiresAt);
      expect(mtimeMs).toBeLessThan(expiresAt + 121_000);
    }
  });

  test('has times that follow each other, and stages that fill the whole', async () => {
    const { createdAt, startedAt = 0, completedAt = 0, result } = await run(await testImage(24));
    expect(startedAt).toBeGreaterThanOrEqual(createdAt);
    expect(completedAt).toBeGreaterThanOrEqual(startedAt);
    const sum = stages.reduce(
      (total, stage) => total + (result?.timingsMs[stage] ?? Number.NaN),
      0,
    );
    expect(sum).toBeGreaterThan(0);
    expect(result?.totalMs).toBeGreaterThanOrEqual(sum);
    expect(completedAt - startedAt + 1).toBeGreaterThanOrEqual(Math.floor(result?.totalMs ?? 0));
  });

  test('is observed in every histogram: its times by mode, its wait by priority', async () => {
    const count = async (name: string, label: string) => {
      const lines = (await registry.getSingleMetricAsString(name)).split('\n');
      return lines
        .filter((line) => line.startsWith(`${name}_count`) && line.includes(label))
        .reduce((sum, line) => sum + Number(line.split(' ')[1]), 0);
    };
    const counts = () =>
      Promise.all([
        count('pisa_job_duration_seconds', 'mode="none"'),
        count('pisa_processing_duration_seconds', 'mode="none"'),
        count('pisa_queue_wait_seconds', 'priority="interactive"'),
      ]);
    const before = await counts();
    const succeeded = await jobsCounted('succeeded', '');
    await run(await testImage(24), { pix: 0, sem: 0 });
    expect(await counts()).toEqual(before.map((value) => value + 1));
    expect(await jobsCounted('succeeded', '')).toBe(succeeded + 1);
    const stageValues = (await metrics.stageSeconds.get()).values.filter(
      (value) => value.metricName?.endsWith('_count') && value.labels.mode === 'none',
    );
    expect(stageValues.map((value) => value.labels.stage).sort()).toEqual([...stages].sort());
    const busy = await metrics.deviceBusySeconds.get();
    expect(busy.values.find((value) => value.labels.device === 'cpu')?.value).toBeGreaterThan(0);
  });

  test('reports progress that never falls', async () => {
    const fractions: number[] = [];
    const listener = ({ data }: { data: unknown }) => {
      fractions.push((data as { fraction: number }).fraction);
    };
    bench.events.on('progress', listener);
    const id = await bench.submit(await testImage(300));
    await bench.event(id, 'progress');
    const during = await bench.queue.get(id);
    expect(during).toMatchObject({ status: 'processing', progress: { stage: expect.any(String) } });
    await bench.ended(id);
    bench.events.off('progress', listener);
    expect(fractions.length).toBeGreaterThan(2);
    expect(fractions).toEqual([...fractions].sort((a, b) => a - b));
    expect(fractions.at(-1)).toBeGreaterThan(0.3);
  });

  test('may name another bundle, which is loaded on first use', async () => {
    const job = await run(await testImage(24), { model: 'blur' });
    expect(job.result?.model.name).toBe('blur');
  });

  test('shares its device with another, so that image coding overlaps graph runs', async () => {
    const image = await testImage(200);
    const jobsInDevice = async () => (await metrics.deviceJobs.get()).values[0]?.value;
    const ids = await whileStopped(device, async () => {
      const both = [await bench.submit(image), await bench.submit(image)];
      await expect.poll(jobsInDevice).toBe(2);
      return both;
    });
    await Promise.all(ids.map((id) => bench.ended(id)));
    const ofBoth = bench.log.filter(({ job }) => ids.includes(String(job)));
    const steps = ofBoth.map(({ msg }) => /^job (begun|made) in the device/.exec(String(msg))?.[1]);
    expect(steps.filter(Boolean)).toEqual(['begun', 'begun', 'made', 'made']);
  });
});

describe("a fault of the user's", () => {
  test.each([
    ['unsupported_media_type', Buffer.from('%PDF-1.4 not an image'), {}],
    ['unknown_model', undefined, { model: 'pisa-huge' }],
  ] as const)(
    '%s is told at once, not retried and not logged as an incident',
    async (code, bytes, query) => {
      const logged = bench.log.length;
      const failed = await jobsCounted('failed', code);
      const job = await run(bytes ?? (await testImage(24)), query);
      expect(job).toMatchObject({ status: 'failed', error: { code } });
      const queued = await bench.redis.client.hget(`bull:upscale:${job.id}`, 'atm');
      expect(queued).toBe('1');
      expect(await jobsCounted('failed', code)).toBe(failed + 1);
      await expect.poll(() => bench.store.get(inputKey(job.id))).toBeUndefined();
      expect(bench.log.slice(logged).filter((line) => Number(line.level) > 30)).toEqual([]);
    },
  );

  test('an image that is cut off in the middle', async () => {
    const whole = await testImage(64);
    const job = await run(whole.subarray(0, whole.length / 2));
    expect(job).toMatchObject({ status: 'failed', error: { code: 'corrupt_image' } });
  });

  test('unknown_model names those that there are', async () => {
    const job = await run(await testImage(24), { model: 'pisa-huge' });
    expect(job.error?.message).toContain('identity');
  });

  test('an input that is gone is told as such', async () => {
    const id = crypto.randomUUID();
    const data = jobData(id, await testImage(24));
    await bench.inspector.add('upscale', data, { jobId: id, attempts: 3 });
    expect(await bench.ended(id)).toMatchObject({
      status: 'failed',
      error: { code: 'input_expired' },
    });
  });
});

describe('stopping a job that runs', () => {
  test('a cancel reads as canceled at once and frees the device, which lives on', async () => {
    const canceled = await jobsCounted('canceled', 'canceled');
    const id = await bench.submit(await testImage(500));
    await bench.event(id, 'progress');
    await whileStopped(device, async () => {
      expect(await bench.queue.remove(id)).toMatchObject({ outcome: 'canceled', job: { id } });
      expect(await bench.queue.get(id)).toMatchObject({
        status: 'canceled',
        error: { code: 'canceled' },
        completedAt: expect.any(Number),
      });
    });
    const next = await run(await testImage(24));
    expect(next.status).toBe('succeeded');
    await bench.finished(id);
    expect(await jobsCounted('canceled', 'canceled')).toBe(canceled + 1);
    expect(await bench.queue.get(id)).toMatchObject({ status: 'canceled' });
    expect(await bench.store.get(outputKey(id))).toBeUndefined();
    await expect.poll(() => bench.store.get(inputKey(id))).toBeUndefined();
    expect(devicesOf(process.pid)).toEqual([device]);
  });

  test('a cancel whose message got lost is found with the next report', async () => {
    const id = await bench.submit(await testImage(1000));
    await bench.event(id, 'progress');
    // The record alone, as when the supervisor's connection was away during the publish.
    await bench.redis.client.set(
      `pisa:canceled:${id}`,
      JSON.stringify({ data: {}, createdAt: 0, canceledAt: 1 }),
      'EX',
      60,
    );
    await bench.finished(id);
    expect(await bench.queue.get(id)).toMatchObject({ status: 'canceled' });
    expect(await bench.store.get(outputKey(id))).toBeUndefined();
  });

  test('a cancel that comes with the last tile still holds, and the result goes', async () => {
    const canceled = await jobsCounted('canceled', 'canceled');
    const id = crypto.randomUUID();
    const made = bench.logged(id, 'job made in the device process');
    await bench.submit(await testImage(24), {}, {}, id);
    await made;
    // In time: before the supervisor looks for it, it waits for Redis to note what is kept.
    await bench.redis.client.set(
      `pisa:canceled:${id}`,
      JSON.stringify({ data: {}, createdAt: 0, canceledAt: 1 }),
      'EX',
      60,
    );
    await bench.finished(id);
    expect(await bench.queue.get(id)).toMatchObject({ status: 'canceled' });
    await expect.poll(() => jobsCounted('canceled', 'canceled')).toBe(canceled + 1);
    await expect.poll(() => bench.store.get(outputKey(id))).toBeUndefined();
    await expect.poll(() => bench.store.get(inputKey(id))).toBeUndefined();
  });

  test('a job that was cancelled between two attempts does not start', async () => {
    const id = crypto.randomUUID();
    await bench.redis.client.set(
      `pisa:canceled:${id}`,
      JSON.stringify({ data: {}, createdAt: 0, canceledAt: 1 }),
      'EX',
      60,
    );
    await bench.submit(await testImage(24), {}, {}, id);
    await bench.finished(id);
    expect(await bench.queue.get(id)).toMatchObject({ status: 'canceled' });
    expect(await bench.store.get(outputKey(id))).toBeUndefined();
  });

  test('its time limit ends it, and the device lives on', async () => {
    const send = vi.spyOn(DeviceChild.prototype, 'send');
    const aborted = () => send.mock.calls.some(([{ type }]) => type === 'abort');
    const id = await whileStopped(device, async () => {
      const submitted = await bench.submit(await testImage(24), {}, { timeoutMs: 400 });
      await expect.poll(aborted).toBe(true);
      return submitted;
    });
    send.mockRestore();
    const job = await bench.ended(id);
    expect(job).toMatchObject({ status: 'failed', error: { code: 'job_timeout' } });
    expect(await bench.redis.client.hget(`bull:upscale:${job.id}`, 'atm')).toBe('1');
    expect((await run(await testImage(24))).status).toBe('succeeded');
    expect(devicesOf(process.pid)).toEqual([device]);
  });
});

test('a finished job that is removed leaves nothing behind', async () => {
  const job = await run(await testImage(24));
  expect(await bench.queue.remove(job.id)).toEqual({ outcome: 'deleted' });
  expect(await bench.queue.get(job.id)).toBeUndefined();
  expect(await bench.store.get(outputKey(job.id))).toBeUndefined();
  expect(await bench.redis.client.keys(`*${job.id}*`)).toEqual([]);
});

test('the worker is in the registry with its devices and models', async () => {
  expect(await bench.queue.workers()).toMatchObject([
    {
      devices: [{ name: 'cpu', status: 'ready' }],
      slots: 2,
      models: expect.arrayContaining([expect.objectContaining({ name: 'identity', scale: 4 })]),
    },
  ]);
  expect((await bench.queue.models()).map(({ name, available }) => [name, available])).toEqual([
    ['blur', true],
    ['identity', true],
    ['identity-fp16', true],
  ]);
});
