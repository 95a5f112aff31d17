/**
 * `make faults`: JOBS (500) jobs while processes of every kind are killed at random (SIGKILL, KILLS of them, 60). Prints a
 * table, writes bench/results/faults.md, and fails unless each job has one final state and its one right result.
 */
import { startDeployment, toyModelSettings } from '../test/support/deployment.ts';
import { runFaults } from '../test/support/faults.ts';
import { table, writeResult } from './results.ts';
import { root } from './service.ts';

const atLeast = Number(process.env.JOBS ?? 500);
const maxKills = Number(process.env.KILLS ?? 60);

const deployment = await startDeployment({
  root,
  workers: 2,
  env: toyModelSettings(root),
});
await deployment.ready();
const report = await runFaults(deployment, {
  jobs: atLeast,
  maxKills,
  meanPauseMs: 2500,
  limitMs: 3_600_000,
  onProgress: (text) => console.error(text),
});
const left = await deployment.stop();
const { jobs, kills, statuses } = report;
// Each by itself: processes that are missing are less than none too many.
const leftBehind = [
  report.leftInQueue,
  report.orphanProcesses,
  left.length,
  report.orphanKeys.length,
  report.orphanObjects.length,
];
const isRight =
  report.rightResults === jobs &&
  report.distinctIds === jobs &&
  leftBehind.every((count) => count === 0);
writeResult(
  'faults',
  `# Jobs under random kills

\`make faults${atLeast === 500 ? '' : ` JOBS=${atLeast}`}\`, ${new Date().toISOString()}, ${Math.round(report.seconds)} s. One API, two workers, Redis with an append-only file; SIGKILL at random moments.

${table(
  ['what', 'count'],
  [
    ['jobs accepted', jobs],
    ...Object.entries(kills).map(([kind, count]) => [`kills of ${kind}`, count]),
    ['requests sent again, because the API or Redis was away', report.requestsRepeated],
    ...Object.entries(statuses).map(([status, count]) => [`final state ${status}`, count]),
    ['distinct job ids', report.distinctIds],
    ['results that are byte for byte those without faults', report.rightResults],
    ['jobs left in a list of work', report.leftInQueue],
    ['keys left in Redis once the jobs were deleted', report.orphanKeys.length],
    ['objects left in the store', report.orphanObjects.length],
    ['processes too many before the end', report.orphanProcesses],
    ['processes left after SIGTERM', left.length],
  ],
)}
`,
);
if (!isRight) {
  console.error(JSON.stringify(report, null, 2));
  process.exitCode = 1;
}
