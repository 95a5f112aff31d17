/**
 * `make rolling`: ROUNDS (3) roll-outs under load, in each of which every API and every worker is replaced; then one
 * without SHUTDOWN_DELAY_SECONDS, to show what it is for. Prints a table, writes bench/results/rolling.md, and fails unless
 * in the first no request failed and each job has its one right result.
 */
import { startDeployment, toyModelSettings } from '../test/support/deployment.ts';
import { type RollingReport, runRolling } from '../test/support/rolling.ts';
import { table, writeResult } from './results.ts';
import { root } from './service.ts';

const rounds = Number(process.env.ROUNDS || 3);
const clients = 8;

async function roll(delaySeconds: number, times: number): Promise<RollingReport> {
  const deployment = await startDeployment({
    root,
    workers: 2,
    env: { ...toyModelSettings(root), SHUTDOWN_DELAY_SECONDS: String(delaySeconds) },
  });
  await deployment.ready();
  const report = await runRolling(deployment, {
    root,
    clients,
    rounds: times,
    pauseMs: 3000,
    onProgress: (text) => console.error(`delay ${delaySeconds} s: ${text}`),
  });
  const left = await deployment.stop();
  if (left.length > 0) throw new Error(`${left.length} processes did not end.`);
  return report;
}

const isRight = (report: RollingReport): boolean =>
  report.failed.length === 0 &&
  report.rightResults === report.accepted &&
  report.distinctIds === report.accepted &&
  report.completed === report.accepted &&
  report.leftInQueue === 0 &&
  report.exitCodes.every((code) => code === 0);

const withDelay = await roll(5, rounds);
const without = await roll(0, 1);
const row = (what: string, of: (report: RollingReport) => string | number) => [
  what,
  of(withDelay),
  of(without),
];
writeResult(
  'rolling',
  `# Roll-out under load

\`make rolling${rounds === 3 ? '' : ` ROUNDS=${rounds}`}\`, ${new Date().toISOString()}. Two APIs behind a TCP load balancer that asks each for \`/readyz\` every 250 ms, two workers, ${clients} clients on kept connections that send nothing twice. Each process is replaced by a new one: that is ready, then the old one gets SIGTERM.

${table(
  ['what', 'SHUTDOWN_DELAY_SECONDS=5', '0, for comparison'],
  [
    row('seconds', ({ seconds }) => seconds.toFixed(0)),
    row('API processes replaced', ({ replaced }) => replaced.api),
    row('workers replaced', ({ replaced }) => replaced.worker),
    row('jobs that ran on a worker when it got SIGTERM', (report) => report.runningAtSigterm),
    row('requests', ({ requests }) => requests),
    row('**requests that failed**', ({ failed }) => failed.length),
    row('jobs accepted', ({ accepted }) => accepted),
    row('jobs that succeeded', ({ statuses }) => statuses.succeeded ?? 0),
    row('**jobs lost**', ({ accepted, statuses }) => accepted - (statuses.succeeded ?? 0)),
    row('results that are byte for byte the right ones', ({ rightResults }) => rightResults),
    row('jobs that BullMQ has as completed', ({ completed }) => completed),
    row('jobs left in a list of work', ({ leftInQueue }) => leftInQueue),
    row('exit codes', ({ exitCodes }) => [...new Set(exitCodes)].join(', ')),
  ],
)}
`,
);
if (!isRight(withDelay)) {
  console.error(JSON.stringify(withDelay, null, 2));
  process.exitCode = 1;
}
