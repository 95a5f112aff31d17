/** A new version is rolled out under load: nobody notices. `make rolling` does more of it. */
import { afterEach, expect, test } from 'vitest';
import { type Deployment, startDeployment, toyModelSettings } from '../support/deployment.ts';
import { runRolling } from '../support/rolling.ts';
import { root } from './service.ts';

let deployment: Deployment;
afterEach(async () => {
  expect(await deployment.stop()).toEqual([]);
});

test('every API and worker is replaced under load: no request fails, no job is lost, each has one result', async () => {
  deployment = await startDeployment({
    root,
    workers: 2,
    env: { ...toyModelSettings(root), SHUTDOWN_DELAY_SECONDS: '5' },
  });
  await deployment.ready();
  const report = await runRolling(deployment, { root, clients: 4, rounds: 1, pauseMs: 1000 });
  expect(report.failed).toEqual([]);
  expect(report.accepted).toBeGreaterThan(20);
  // Else nothing was replaced in the middle of anything.
  expect(report.runningAtSigterm).toBeGreaterThan(0);
  expect(report).toMatchObject({
    distinctIds: report.accepted,
    statuses: { succeeded: report.accepted },
    rightResults: report.accepted,
    completed: report.accepted,
    leftInQueue: 0,
    replaced: { api: 2, worker: 2 },
    exitCodes: [0, 0, 0, 0],
  });
}, 600_000);
