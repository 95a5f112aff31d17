/** The arithmetic of the autoscaler, against examples worked out by hand from Kubernetes' documents. */
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { expect, test } from 'vitest';
import { parse } from 'yaml';
import {
  Autoscaler,
  type AutoscalerSettings,
  chartAutoscaler,
  jobsPerWorker,
  proposeWorkers,
} from '../../../bench/scaling/controller.ts';

const settings: AutoscalerSettings = { ...chartAutoscaler, maxWorkers: 100, jobsPerWorker: 5 };
const seconds = 1000;

/** Looks of the HorizontalPodAutoscaler every 15 s, one for each length of the queue. */
function followed(autoscaler: Autoscaler, lengths: readonly number[], from = 0): number[] {
  return lengths.map((jobs, look) => {
    autoscaler.sync(from + look * 15 * seconds, jobs);
    return autoscaler.workers;
  });
}

test.each([
  { jobs: 0, workers: 3, proposed: 0 },
  { jobs: 16, workers: 3, proposed: 3 }, // 16 / 15 is within the tolerance
  { jobs: 16.5, workers: 3, proposed: 3 }, // just
  { jobs: 17, workers: 3, proposed: 4 },
  { jobs: 13.5, workers: 3, proposed: 3 },
  { jobs: 10, workers: 3, proposed: 2 },
  { jobs: 11, workers: 3, proposed: 3 }, // rounded up
  { jobs: 1000, workers: 1, proposed: 200 },
])('$jobs jobs for $workers workers of 5: $proposed', ({ jobs, workers, proposed }) => {
  expect(proposeWorkers(jobs, workers, { jobsPerWorker: 5, tolerance: 0.1 })).toBe(proposed);
});

test('a target follows from the seconds of a job and the wait that is aimed at', () => {
  expect(jobsPerWorker(2, 10)).toBe(5);
  expect(jobsPerWorker(30, 10)).toBe(1);
});

test('up: at most doubled or four more in 15 s, whichever is more', () => {
  expect(followed(new Autoscaler(settings, 1), [500, 500, 500, 500, 500, 500])).toEqual([
    5, 10, 20, 40, 80, 100,
  ]);
});

test('down: only to the most that was recommended in the last five minutes', () => {
  const autoscaler = new Autoscaler(settings, 10);
  followed(autoscaler, [50]);
  // Looks at 15 s … 300 s: the one that recommended 10 is 300 s old at the last, and no longer counts.
  const down = followed(autoscaler, Array(20).fill(5), 15 * seconds);
  expect(down.slice(0, -1)).toEqual(Array(19).fill(10));
  expect(down.at(-1)).toBe(5);
});

test('down: policies slow it', () => {
  const slow: AutoscalerSettings = {
    ...settings,
    down: { stabilizationMs: 0, policies: [{ kind: 'pods', value: 2, periodMs: 60 * seconds }] },
  };
  expect(followed(new Autoscaler(slow, 10), [5, 5, 5, 5, 5])).toEqual([8, 8, 8, 8, 6]);
  const half: AutoscalerSettings = {
    ...settings,
    down: {
      stabilizationMs: 0,
      policies: [{ kind: 'percent', value: 50, periodMs: 15 * seconds }],
    },
  };
  expect(followed(new Autoscaler(half, 9), [5, 5, 5])).toEqual([4, 2, 1]);
});

test('up: a stabilisation window waits out a peak', () => {
  const calm: AutoscalerSettings = {
    ...settings,
    up: { ...settings.up, stabilizationMs: 30 * seconds },
  };
  expect(followed(new Autoscaler(calm, 2), [10, 100, 10, 30, 30, 30, 30])).toEqual([
    2, 2, 2, 2, 6, 6, 6,
  ]);
});

test('zero: only KEDA leaves it and goes back to it, after the cool-down', () => {
  const autoscaler = new Autoscaler(settings);
  autoscaler.sync(0, 40);
  expect(autoscaler.workers).toBe(0);
  autoscaler.poll(30 * seconds, 40);
  expect(autoscaler.workers).toBe(1);
  autoscaler.sync(45 * seconds, 20);
  expect(autoscaler.workers).toBe(4);
  autoscaler.poll(60 * seconds, 1);
  autoscaler.sync(400 * seconds, 0);
  // Half of them in a minute; the rest is KEDA's.
  expect(autoscaler.workers).toBe(2);
  autoscaler.poll(360 * seconds, 0);
  expect(autoscaler.workers).toBe(2);
  autoscaler.poll(390 * seconds, 0);
  expect(autoscaler.workers).toBe(0);
});

test('limits: never below the least nor above the most', () => {
  const bounded: AutoscalerSettings = { ...settings, minWorkers: 2, maxWorkers: 3 };
  const autoscaler = new Autoscaler(bounded);
  expect(followed(autoscaler, [0, 500])).toEqual([2, 3]);
  autoscaler.poll(1000 * seconds, 0);
  followed(autoscaler, [0], 2000 * seconds);
  expect(autoscaler.workers).toBe(2);
});

test("what is simulated is what the chart's values say", () => {
  const values = path.resolve(import.meta.dirname, '../../../helm/pisa-serve/values.yaml');
  const { scaling } = parse(readFileSync(values, 'utf8')).workerDefaults;
  const { pollMs, cooldownMs, up, down } = chartAutoscaler;
  expect(scaling).toMatchObject({
    pollingIntervalSeconds: pollMs / seconds,
    cooldownSeconds: cooldownMs / seconds,
    scaleDownStabilizationSeconds: down.stabilizationMs / seconds,
    scaleUpPods: up.policies.find(({ kind }) => kind === 'pods')?.value,
    scaleDownPercent: down.policies.find(({ kind }) => kind === 'percent')?.value,
  });
});
