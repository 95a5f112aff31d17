/** Workers come and go with the queue, and none drops a job. `make scaling` does it with the chart's times. */
import { readFileSync } from 'node:fs';
import { afterEach, expect, test } from 'vitest';
import { chartAutoscaler } from '../../bench/scaling/controller.ts';
import { followLoad } from '../../bench/scaling/follow.ts';
import { type Deployment, startDeployment, toyModelSettings } from '../support/deployment.ts';
import { photo, root } from './service.ts';

let deployment: Deployment;
afterEach(async () => {
  expect(await deployment.stop()).toEqual([]);
});

test('from none to several and back to none: every job is run once', async () => {
  deployment = await startDeployment({
    root,
    workers: 0,
    env: { ...toyModelSettings(root), JOBS_PER_DEVICE: '1' },
  });
  await deployment.ready();
  const report = await followLoad(deployment, {
    settings: {
      ...chartAutoscaler,
      maxWorkers: 3,
      jobsPerWorker: 4,
      pollMs: 1000,
      syncMs: 1000,
      cooldownMs: 5000,
      down: { ...chartAutoscaler.down, stabilizationMs: 3000 },
    },
    phases: [
      { name: 'none', perSecond: 0, ms: 2000 },
      { name: 'ten times', perSecond: 10, ms: 4000 },
      { name: 'once', perSecond: 1, ms: 10_000 },
    ],
    photo: new Uint8Array(readFileSync(photo('cat-128.jpg'))),
  });
  const wanted = report.samples.map((sample) => sample.wanted);
  expect(wanted[0]).toBe(0);
  expect(Math.max(...wanted)).toBe(3);
  expect(report.rises.map(({ workers }) => workers)).toEqual([1, 2, 3]);
  expect(report.accepted).toBe(50);
  expect(report.statuses).toEqual({ succeeded: 50 });
  expect(report.startedAgain).toBe(0);
  const { workers, exitCodes } = report.ended;
  expect(workers).toBeGreaterThanOrEqual(3);
  expect(exitCodes.every((code) => code === 0)).toBe(true);
}, 600_000);
