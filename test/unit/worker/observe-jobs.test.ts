import { beforeEach, expect, test } from 'vitest';
import { stages, type UpscaleJobResult } from '../../../src/jobs/job.ts';
import type { UpscaleJob } from '../../../src/jobs/job-snapshot.ts';
import { metrics, registry } from '../../../src/metrics.ts';
import { countFromZero, observeFailure, observeSuccess } from '../../../src/worker/observe-jobs.ts';

beforeEach(() => {
  metrics.jobs.reset();
  metrics.queueWaitSeconds.reset();
});

const job = (data: Record<string, unknown>, times = {}) =>
  ({ data: { params: { model: 'm' }, timeoutMs: 900_000, ...data }, ...times }) as UpscaleJob;

test.each([
  ['job_timeout', 900_000, 'job_timeout'],
  ['job_timeout', 1000, 'requested_timeout'],
  // Nobody asks for these.
  ['device_lost', 1000, 'device_lost'],
  ['canceled', 1000, 'canceled'],
] as const)(
  '%s at a limit of %i ms counts as %s where 900 s are allowed',
  async (code, timeoutMs, counted) => {
    observeFailure(job({ timeoutMs }), code, 900_000);
    const { values } = await metrics.jobs.get();
    expect(values.map(({ labels }) => labels.code)).toEqual([counted]);
  },
);

test.each([
  [undefined, 'interactive'],
  ['batch', 'batch'],
])('a job of priority %s waits as %s', async (priority, label) => {
  const timingsMs = Object.fromEntries(stages.map((stage) => [stage, 1]));
  const result = { model: { name: 'm' }, evaluations: 1, timingsMs, totalMs: 6 };
  const times = { timestamp: 0, processedOn: 45_000, finishedOn: 46_000 };
  observeSuccess(job({ priority }, times), result as unknown as UpscaleJobResult);
  const text = await registry.getSingleMetricAsString('pisa_queue_wait_seconds');
  const labels = `model="m",priority="${label}"`;
  expect(text).toContain(`pisa_queue_wait_seconds_bucket{le="30",${labels}} 0`);
  expect(text).toContain(`pisa_queue_wait_seconds_bucket{le="60",${labels}} 1`);
});

test('waits are counted from 0 on, and a device that starts again takes none of them away', async () => {
  const count = async () =>
    /pisa_queue_wait_seconds_count\{model="m",priority="interactive"\} (\d+)/.exec(
      await registry.getSingleMetricAsString('pisa_queue_wait_seconds'),
    )?.[1];
  countFromZero('m');
  expect(await count()).toBe('0');
  metrics.queueWaitSeconds.observe({ model: 'm', priority: 'interactive' }, 1);
  countFromZero('m');
  expect(await count()).toBe('1');
});
