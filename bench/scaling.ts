/**
 * `make scaling`: how many workers the chart's autoscaling asks for while the load goes from nothing to a little, to ten
 * times that and back to nothing; real processes follow. SCALE=1 divides all times of the chart (SCALE=5: a run of
 * some minutes). Prints tables, writes bench/results/scaling.md, and fails when a job is dropped or the workers follow too late.
 */
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { startDeployment } from '../test/support/deployment.ts';
import { table, writeResult } from './results.ts';
import { type AutoscalerSettings, chartAutoscaler, jobsPerWorker } from './scaling/controller.ts';
import { type FollowReport, followLoad, type Sample } from './scaling/follow.ts';
import { jobsInQueue } from './scaling/queue-length.ts';
import { root } from './service.ts';

const scale = Number(process.env.SCALE || 1);
const maxWorkers = 4;
const waitTargetSeconds = 5;
/** Of what one worker can do. */
const light = 0.25;
const calibrationJobs = 20;
/** What a look at the queue may come late on a machine that is all in use. */
const lateMs = 1000;

const photo = new Uint8Array(
  await sharp(path.join(root, 'test/photos/cat-128.jpg')).resize(96, 96).png().toBuffer(),
);
const deployment = await startDeployment({
  root,
  env: { RESULT_CACHE: 'off', KEEP_MAX_MEGABYTES: '0', DEVICE_THREADS: '1', JOBS_PER_DEVICE: '1' },
});
await deployment.ready();
await measureBacklog(2);
const secondsPerJob = await measureBacklog(calibrationJobs);
// From here on workers are there only when they are asked for.
for (const worker of deployment.processes.workers) await worker.end('SIGTERM');

const settings = scaled({
  ...chartAutoscaler,
  maxWorkers,
  jobsPerWorker: jobsPerWorker(secondsPerJob, waitTargetSeconds),
});
const { syncMs, pollMs, cooldownMs, down } = settings;
const once = light / secondsPerJob;
const report = await followLoad(deployment, {
  settings,
  phases: [
    { name: 'none', perSecond: 0, ms: 2 * syncMs },
    { name: 'once', perSecond: once, ms: 6 * syncMs },
    { name: 'ten times', perSecond: 10 * once, ms: 6 * syncMs },
    // The workers that are too many go while jobs still come.
    { name: 'once', perSecond: once, ms: 3 * down.stabilizationMs, untilWorkers: 1 },
  ],
  photo,
  onProgress: (text) => console.error(text),
});
const left = await deployment.stop();

const riseLimitMs = pollMs + syncMs + lateMs;
const fallLimitMs = Math.max(cooldownMs, down.stabilizationMs) + pollMs + syncMs + lateMs;
const isRight =
  left.length === 0 &&
  report.statuses.succeeded === report.accepted &&
  report.startedAgain === 0 &&
  report.ended.whileRunning > 0 &&
  report.ended.exitCodes.every((code) => code === 0) &&
  report.rises.length === maxWorkers &&
  report.rises.every(({ askedAt, wantedAt }) => wantedAt - askedAt <= riseLimitMs) &&
  report.fewestAt - report.emptyAt <= fallLimitMs;
writeResult('scaling', page(report));
if (!isRight) {
  console.error(JSON.stringify({ ...report, samples: report.samples.length, left }, null, 2));
  process.exitCode = 1;
}

/** @returns seconds that one busy worker takes for a job */
async function measureBacklog(jobs: number): Promise<number> {
  for (let job = 0; job < jobs; job += 1) {
    const answer = await fetch(`${deployment.url}/upscale`, {
      method: 'POST',
      headers: { 'content-type': 'image/png' },
      body: photo,
    });
    if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
  }
  const startedAt = performance.now();
  const waiting = await jobsInQueue(deployment.redis);
  while ((await jobsInQueue(deployment.redis)) > 0) await delay(10);
  return (performance.now() - startedAt) / 1000 / waiting;
}

function scaled(all: AutoscalerSettings): AutoscalerSettings {
  const rules = ({ stabilizationMs, policies }: AutoscalerSettings['up']) => ({
    stabilizationMs: stabilizationMs / scale,
    policies: policies.map((policy) => ({ ...policy, periodMs: policy.periodMs / scale })),
  });
  return {
    ...all,
    pollMs: all.pollMs / scale,
    syncMs: all.syncMs / scale,
    cooldownMs: all.cooldownMs / scale,
    up: rules(all.up),
    down: rules(all.down),
  };
}

function page({ samples, rises, emptyAt, fewestAt, ended, ...jobs }: FollowReport): string {
  const seconds = (milliseconds: number): string => (milliseconds / 1000).toFixed(1);
  return `# Scaling with the queue

\`make scaling${scale === 1 ? '' : ` SCALE=${scale}`}\`, ${new Date().toISOString()}. A job takes a worker ${secondsPerJob.toFixed(2)} s (measured first), aimed at is a wait of ${waitTargetSeconds} s: a worker for every ${settings.jobsPerWorker.toFixed(1)} jobs, 0 to ${maxWorkers} workers. Load: none, ${once.toFixed(2)} images a second, ten times that, ${once.toFixed(2)}, none. Looks of KEDA every ${seconds(pollMs)} s and of the HorizontalPodAutoscaler every ${seconds(syncMs)} s, fewer workers only after ${seconds(down.stabilizationMs)} s, none after ${seconds(cooldownMs)} s without a job${scale === 1 ? ', as in the chart' : `: the chart's times divided by ${scale}`}.

${table(
  ['workers', 'the queue asks for them at, s', 'wanted at, s', 'later by, s', `at most, s`],
  rises.map(({ workers, askedAt, wantedAt }) => [
    workers,
    seconds(askedAt),
    seconds(wantedAt),
    seconds(wantedAt - askedAt),
    seconds(pollMs + syncMs),
  ]),
)}

The queue was empty for good at ${seconds(emptyAt)} s, no worker was wanted at ${seconds(fewestAt)} s: ${seconds(fewestAt - emptyAt)} s later (at most ${seconds(Math.max(cooldownMs, down.stabilizationMs) + pollMs)} s: cool-down, then one look of KEDA).

${table(
  ['what', 'count'],
  [
    ['jobs accepted', jobs.accepted],
    ...Object.entries(jobs.statuses).map(([status, count]) => [`final state ${status}`, count]),
    ['**jobs that were started more than once**', jobs.startedAgain],
    ['workers ended (SIGTERM)', ended.workers],
    ['of these while they ran a job, by choice', ended.whileRunning],
    ['exit codes', [...new Set(ended.exitCodes)].join(', ')],
  ],
)}

What was wanted, whenever it changed:

${table(
  ['at, s', 'load', 'jobs in the queue', 'workers wanted', 'processes'],
  changes(samples).map(({ at, phase, jobs: waiting, wanted, running }) => [
    seconds(at),
    phase,
    waiting,
    wanted,
    running,
  ]),
)}
`;
}

function changes(samples: readonly Sample[]): Sample[] {
  return samples.filter(({ wanted, phase }, index) => {
    const before = samples[index - 1];
    return before?.wanted !== wanted || before.phase !== phase;
  });
}
