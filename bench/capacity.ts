/**
 * `make capacity`: holds the simulation against the real service (MINUTES=6 of Poisson arrivals on each of two setups,
 * service times measured before and after), then, with the service times of `make bench`, simulates what this machine
 * cannot run: workers, waits and cost from 1 to 10,000 images a minute. Prints tables; writes
 * bench/results/capacity.{json,md}.
 *
 * PRICE=0.10 of a worker for an hour; WAIT=10 seconds that 95 % shall not exceed; MIX=128:0.6,256:0.3,512:0.1 edges of
 * the inputs, of those that `make bench` measures, and their shares. MEASURE=no takes the measured waits of the last run.
 * SECONDS_PER_IMAGE=0.5 plans for a worker that takes this long for an image instead, and writes nothing.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { arrivals, type Bursts } from './capacity/arrivals.ts';
import { capacityPerMs, checkAgainst } from './capacity/check.ts';
import {
  busyWorkers,
  type PlanInput,
  planAutoscaled,
  planFixed,
  secondsPerImage,
} from './capacity/plan.ts';
import { createRandom } from './capacity/random.ts';
import {
  describeService,
  type MeasuredJob,
  measurePhases,
  type Phases,
  RealService,
  type Setup,
  type SizeShare,
} from './capacity/real-service.ts';
import { type MeasuredSize, mean, meanWorkMs, pickSize } from './capacity/work.ts';
import { table, writeResult } from './results.ts';
import { embeddedModel, root } from './service.ts';

const number = (name: string, otherwise: number): number => {
  const value = Number(process.env[name] || otherwise);
  if (value > 0) return value;
  throw new Error(`${name} is ${process.env[name]}: expected a number above 0.`);
};

const minutes = number('MINUTES', 6);
const pricePerHour = number('PRICE', 0.1);
const waitTargetSeconds = number('WAIT', 10);
const mix = parseMix(process.env.MIX || '128:0.6,256:0.3,512:0.1');
const seed = 20;

/** Small, so that some minutes hold many jobs. */
const checkMix: SizeShare[] = [
  { side: 64, share: 0.4 },
  { side: 96, share: 0.3 },
  { side: 128, share: 0.2 },
  { side: 160, share: 0.1 },
];
const checkUtilization = 0.7;
const phaseJobs = 24;
const setups: Setup[] = [
  {
    name: '2 workers, 1 thread each, 1 job at a time',
    workers: 2,
    slots: 2,
    env: { DEVICE_THREADS: '1', JOBS_PER_DEVICE: '1' },
  },
  {
    name: '1 worker as by default: 2 threads, 2 jobs at a time',
    workers: 1,
    slots: 2,
    env: { DEVICE_THREADS: '2', JOBS_PER_DEVICE: '2' },
  },
];
const rates = [1, 10, 100, 1000, 10_000];
const coldStartMinutes = [1, 3, 5];
const bursts: Bursts = { factor: 5, meanMs: 60_000, share: 0.1 };

/** As measured; what follows from it is computed anew for each page. */
interface Check {
  setup: string;
  date: string;
  slots: number;
  perMinute: number;
  /** Before and after the load. */
  phases: Phases[];
  jobs: MeasuredJob[];
}

interface Measurements {
  date: string;
  model: string;
  cpu: string;
  node: string;
  checks: Check[];
}

function parseMix(text: string): SizeShare[] {
  return text.split(',').map((part) => {
    const [side = Number.NaN, share = Number.NaN] = part.split(':').map(Number);
    if (side > 0 && share > 0) return { side, share };
    throw new Error(`MIX is ${text}: expected edge:share pairs, such as 128:0.6,256:0.4.`);
  });
}

async function measure(): Promise<Measurements> {
  const checks: Check[] = [];
  for (const setup of setups) checks.push(await measureCheck(setup));
  return {
    date: new Date().toISOString(),
    model: embeddedModel(),
    cpu: `${cpus().length} × ${cpus()[0]?.model.trim()}`,
    node: process.version,
    checks,
  };
}

interface ServiceReport {
  date: string;
  model: string;
  rows: { side: number; mode: string; timings: Record<string, number> }[];
}

/** The times of `make bench`, with default dials: one evaluation. One job at a time, as they were measured. */
function plannedWork(): { date: string; model: string; sizes: MeasuredSize[] } {
  const file = path.join(root, 'bench/results/service.json');
  const { date, model, rows } = JSON.parse(readFileSync(file, 'utf8')) as ServiceReport;
  const known = rows.filter(({ mode }) => mode === 'one');
  const sizes = mix.map(({ side, share }) => {
    const total = known.find((row) => row.side === side)?.timings.total;
    if (total !== undefined) return { side, share, samplesMs: [total] };
    const sides = known.map((row) => row.side).join(', ');
    throw new Error(`MIX names ${side}, but \`make bench\` has measured ${sides} only.`);
  });
  return { date, model, sizes };
}

async function measureCheck(setup: Setup): Promise<Check> {
  const random = createRandom(seed);
  const service = await RealService.start(
    setup,
    checkMix.map(({ side }) => side),
  );
  console.error(`${setup.name}: service times …`);
  const before = await measurePhases(service, random, checkMix, phaseJobs);
  const first = describeService([before], checkMix, setup.slots);
  const perMinute = checkUtilization * capacityPerMs(first) * 60_000;
  const times = [...arrivals(random, { perMinute, durationMs: minutes * 60_000, workMs: () => 0 })];
  console.error(`${setup.name}: ${times.length} jobs in ${minutes} minutes …`);
  const jobs = await service.openLoop(
    times.map(({ at }) => ({ at, side: pickSize(random, checkMix).side })),
  );
  // Once more, so that a machine that changes meanwhile is seen from both sides.
  const after = await measurePhases(service, random, checkMix, phaseJobs);
  await service.stop();
  return {
    setup: setup.name,
    date: new Date().toISOString(),
    slots: setup.slots,
    perMinute,
    phases: [before, after],
    jobs,
  };
}

/** Service times that others on the machine have changed meanwhile say nothing of the simulation. */
const isSteady = (before: number, after: number): boolean =>
  Math.max(before / after, after / before) < 1.25;

function usage(jobs: readonly MeasuredJob[], slots: number) {
  const from = Math.min(...jobs.map(({ createdAt }) => createdAt));
  const to = Math.max(...jobs.map(({ endedAt }) => endedAt));
  const busy = jobs.reduce((sum, { startedAt, endedAt }) => sum + endedAt - startedAt, 0);
  return { seconds: (to - from) / 1000, utilization: busy / slots / (to - from) };
}

const digits = (value: number): string =>
  value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2);
const percent = (value: number): string => `${(100 * value).toFixed(0)} %`;
const money = (value: number): string => value.toFixed(value < 1 ? 3 : 2);

function checkSection({ setup, date, slots, perMinute, phases, jobs }: Check): string {
  const service = describeService(phases, checkMix, slots);
  const { seconds, utilization } = usage(jobs, slots);
  const [before = 0, after = 0] = phases.map((phase) =>
    meanWorkMs(describeService([phase], checkMix, slots).sizes),
  );
  const rows = checkAgainst(jobs, service, perMinute, seed);
  return `${setup}; ended ${date}. ${jobs.length} jobs in ${seconds.toFixed(0)} s (${perMinute.toFixed(1)} a minute on average), slots in use ${percent(utilization)} of the time. Measured apart: mean work of a job ${before.toFixed(0)} ms before and ${after.toFixed(0)} ms after${isSteady(before, after) ? '' : ' (**the machine gave it another share: no test**)'}; beside another one it runs at ${digits(service.speeds.at(-1) ?? 1)} of its speed.

${table(
  [
    'milliseconds',
    'measured',
    'simulated',
    'deviation',
    'other arrivals: median',
    '95 % of such runs',
  ],
  rows.map(({ measure, measuredMs, simulatedMs, deviation, otherMs }) => [
    measure,
    measuredMs.toFixed(0),
    simulatedMs.toFixed(0),
    `${deviation < 0 ? '−' : '+'}${Math.abs(100 * deviation).toFixed(1)} %`,
    otherMs.median.toFixed(0),
    `${otherMs.low.toFixed(0)} to ${otherMs.high.toFixed(0)}`,
  ]),
)}`;
}

function serviceTable(sizes: readonly MeasuredSize[]): string {
  return table(
    ['input', 'share', 'seconds'],
    sizes.map(({ side, share, samplesMs }) => [
      `${side}²`,
      percent(share),
      digits(mean(samplesMs) / 1000),
    ]),
  );
}

function fixedTable(input: PlanInput): string {
  const rows = rates.flatMap((perMinute) =>
    [undefined, bursts].map((shape) => {
      console.error(`always on: ${perMinute} a minute …`);
      const row = planFixed(input, { perMinute, bursts: shape });
      return [
        perMinute.toLocaleString('en'),
        shape ? 'bursts' : 'Poisson',
        digits(busyWorkers(input, perMinute)),
        row.workers.toFixed(0),
        percent(row.utilization),
        ...waits(row.waitSeconds),
        money(row.costPerThousand),
      ];
    }),
  );
  return table(
    [
      'images a minute',
      'arrivals',
      'workers that would be busy',
      'workers needed',
      'busy',
      'wait p50, s',
      'p95',
      'p99',
      'cost per 1,000 images',
    ],
    rows,
  );
}

const waits = ({ p50, p95, p99 }: { p50: number; p95: number; p99: number }): string[] =>
  [p50, p95, p99].map(digits);

function autoscaledTable(input: PlanInput): string {
  const rows = rates.flatMap((perMinute) => {
    const calm = perMinute / (1 + bursts.share * (bursts.factor - 1));
    const kept = Math.ceil(busyWorkers(input, calm) / 0.8);
    return [0, kept].flatMap((minWorkers) =>
      coldStartMinutes.map((coldStart) => {
        console.error(`autoscaled: ${perMinute} a minute, from ${minWorkers} workers …`);
        const row = planAutoscaled(
          input,
          { perMinute, bursts },
          { minWorkers, coldStartMs: coldStart * 60_000 },
        );
        return [
          perMinute.toLocaleString('en'),
          minWorkers,
          `${coldStart} min`,
          digits(row.workers),
          row.mostWorkers,
          ...waits(row.waitSeconds),
          money(row.costPerThousand),
        ];
      }),
    );
  });
  return table(
    [
      'images a minute, in bursts',
      'kept workers',
      'cold start',
      'workers on average',
      'at most',
      'wait p50, s',
      'p95',
      'p99',
      'cost per 1,000 images',
    ],
    rows,
  );
}

function planSection(input: PlanInput): string {
  return `A worker does an image every ${digits(secondsPerImage(input))} s when it always has enough to do. Price of a worker: ${pricePerHour} an hour (\`PRICE\`; a parameter, of any currency). Bursts: ${bursts.factor} × as many images a minute during ${percent(bursts.share)} of the time, a minute long on average.

## Workers that are always on

The fewest with which 95 % of the images wait no longer than ${waitTargetSeconds} s (\`WAIT\`).

${fixedTable(input)}

## Workers that come and go

As KEDA and the HorizontalPodAutoscaler decide with the chart's values (poll and sync 15 s, tolerance 0.1, up by 100 % or 4 workers in 15 s, down after 300 s by half a minute), one worker for every ${digits(waitTargetSeconds / secondsPerImage(input))} jobs in the queue. Kept: none, or enough for the time between bursts at 80 %. There is no \`maxReplicas\` here: what is asked for shows why one is needed. Cold start: from the decision until the worker takes jobs; it is paid for.

${autoscaledTable(input)}
`;
}

function planParameter(seconds: number): void {
  const input: PlanInput = {
    worker: { speeds: [1] },
    sizes: [{ side: 0, share: 1, samplesMs: [seconds * 1000] }],
    waitTargetSeconds,
    pricePerHour,
    seed,
  };
  console.log(`# A worker that takes ${seconds} s for an image\n\n${planSection(input)}`);
}

async function main(): Promise<void> {
  if (process.env.SECONDS_PER_IMAGE) return planParameter(number('SECONDS_PER_IMAGE', 1));
  const kept = path.join(root, 'bench/results/capacity.json');
  const isMeasured = process.env.MEASURE !== 'no';
  const measurements = isMeasured
    ? await measure()
    : (JSON.parse(readFileSync(kept, 'utf8')) as Measurements);
  const { date, model, cpu, node, checks } = measurements;
  const planned = plannedWork();
  const input: PlanInput = {
    worker: { speeds: [1] },
    sizes: planned.sizes,
    waitTargetSeconds,
    pricePerHour,
    seed,
  };
  if (isMeasured) writeFileSync(kept, `${JSON.stringify(measurements)}\n`);
  writeResult(
    'capacity',
    `# Capacity

\`make capacity\`, measured ${date} with ${model} on ${cpu}, Node ${node}; seed ${seed}.

## Simulation against the real service

Poisson arrivals at ${percent(checkUtilization)} of what the service can do; inputs of ${checkMix.map(({ side, share }) => `${side}² (${percent(share)})`).join(', ')}. Service times are measured before and after, without the load. "Simulated" has the arrivals and sizes of the measurement, and service times drawn anew ${'(median of 100)'}; "other arrivals" are runs of the same length with arrivals of their own, which shows how far two measurements may differ by chance.

${checks.map(checkSection).join('\n\n')}

## Service times

Of a worker with two threads, ${planned.model}, default dials: medians of \`make bench\`, ${planned.date}, one job at a time.

${serviceTable(planned.sizes)}

${planSection(input)}`,
  );
}

await main();
