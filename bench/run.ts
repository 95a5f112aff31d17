/**
 * `make bench`: per-stage times, one against both evaluations, HTTP overhead, event-loop lag, cancel latency
 * and peak memory of the real service. Prints Markdown tables; writes bench/results/service.{json,md}.
 * `make bench BENCH_FLAGS=--huge` adds 2048² → 8192² (minutes); `BENCH_FLAGS=--adjust` prints the cost of other dials only,
 * `BENCH_FLAGS=--webhooks` what bad webhook receivers cost.
 */
import { writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { residentMegabytes } from '../test/support/processes.ts';
import { type AdjustRow, adjustTable, measureAdjust } from './adjust.ts';
import { table, writeResult } from './results.ts';
import {
  cancelJob,
  embeddedModel,
  getJob,
  metric,
  root,
  type Service,
  startService,
  submit,
  upscaleSync,
} from './service.ts';
import { median, quantile } from './statistics.ts';
import { measureWebhooks, webhookTable } from './webhooks.ts';

const results = path.join(root, 'bench/results');
const huge = process.argv.includes('--huge');
const adjustOnly = process.argv.includes('--adjust');
const stages = [
  'decode_image',
  'encode_latents',
  'predict_residual',
  'decode_latents',
  'color_fix',
  'encode_image',
] as const;
const modes = { none: { pix: 0, sem: 0 }, one: { pix: 1, sem: 1 }, both: { pix: 1, sem: 0.5 } };
const sizes: readonly { side: number; runs: number }[] = [
  { side: 128, runs: 9 },
  { side: 256, runs: 5 },
  { side: 512, runs: 3 },
  { side: 1024, runs: 1 },
];
const cancelRounds = 5;
/** The lag is the period of a timer (prom-client's default, `monitorEventLoopDelay`), which is this long without any. */
const lagTimerMs = 10;
const ms = (value: number | undefined): string => (value === undefined ? '' : value.toFixed(0));

const photo = (side: number): Promise<Buffer> =>
  sharp(path.join(root, 'test/photos/cat-128.jpg')).resize(side, side).png().toBuffer();

interface StageRow {
  side: number;
  mode: string;
  wallMs: number;
  timings: Record<string, number>;
}

async function measureStages(service: Service): Promise<StageRow[]> {
  const rows: StageRow[] = [];
  for (const { side, runs } of sizes) {
    const image = await photo(side);
    // The modes take turns, so that a slow moment of the machine hits all of them.
    const samples = new Map<string, { wallMs: number; timings: Record<string, number> }[]>();
    for (let run = 0; run < runs; run += 1) {
      for (const [mode, dials] of Object.entries(modes)) {
        const { wallMs, job } = await upscaleSync(service, image, dials);
        const list = samples.get(mode) ?? [];
        list.push({ wallMs, timings: job.timings_ms });
        samples.set(mode, list);
      }
    }
    for (const [mode, list] of samples) {
      const timings = Object.fromEntries(
        [...stages, 'queue', 'total'].map((stage) => [
          stage,
          median(list.map((sample) => sample.timings[stage] ?? Number.NaN)),
        ]),
      );
      rows.push({ side, mode, wallMs: median(list.map((sample) => sample.wallMs)), timings });
    }
  }
  return rows;
}

/** What a 1024² job does to everybody else. */
async function measureLongJob(service: Service): Promise<Record<string, number>> {
  const image = await photo(1024);
  // A scrape begins the next period of this metric: the one before was other work.
  const lagMs = async () => 1000 * (await metric(service, 'nodejs_eventloop_lag_p99_seconds'));
  await lagMs();
  const job = await submit(service, image, modes.one);
  const health: number[] = [];
  while ((await getJob(service, job.id)).status !== 'succeeded') {
    const startedAt = performance.now();
    await (await fetch(`${service.url}/healthz`)).arrayBuffer();
    health.push(performance.now() - startedAt);
    await delay(20);
  }
  return {
    healthzP50Ms: quantile(health, 0.5),
    healthzP99Ms: quantile(health, 0.99),
    eventLoopLagP99Ms: Math.max(0, (await lagMs()) - lagTimerMs),
  };
}

/**
 * How soon a cancel frees the device: jobs run one at a time, so that a small one has to wait for it. Beyond what the
 * small one takes alone, that is the rest of the run of a tile.
 */
async function measureCancel(): Promise<Record<string, number>> {
  const service = await startService({ JOBS_PER_DEVICE: '1' });
  const image = await photo(1024);
  const small = await photo(128);
  await upscaleSync(service, small, modes.one);
  const alone: number[] = [];
  const afterCancel: number[] = [];
  for (let round = 0; round < cancelRounds; round += 1) {
    alone.push((await upscaleSync(service, small, modes.one)).wallMs);
    const { id } = await submit(service, image, modes.one);
    while ((await getJob(service, id)).progress?.stage !== 'predict_residual') await delay(5);
    const canceledAt = performance.now();
    await cancelJob(service, id);
    await upscaleSync(service, small, modes.one);
    afterCancel.push(performance.now() - canceledAt);
  }
  await service.stop();
  const costs = afterCancel.map((ms, round) => ms - (alone[round] ?? Number.NaN));
  return {
    aloneMs: median(alone),
    afterCancelMs: median(afterCancel),
    costMs: median(costs),
    highestCostMs: Math.max(...costs),
  };
}

function stageTable(rows: readonly StageRow[]): string {
  const base = (side: number): number =>
    rows.find((row) => row.side === side && row.mode === 'one')?.timings.total ?? Number.NaN;
  return table(
    ['input', 'evaluations', ...stages, 'total ms', 'against one', 'HTTP adds ms'],
    rows.map(({ side, mode, wallMs, timings }) => [
      `${side}²`,
      mode,
      ...stages.map((stage) => ms(timings[stage])),
      ms(timings.total),
      `${((timings.total ?? Number.NaN) / base(side)).toFixed(2)} ×`,
      ms(wallMs - (timings.total ?? Number.NaN)),
    ]),
  );
}

/** Sizes whose latents and residuals are kept under the default KEEP_MAX_JOB_MEGABYTES. */
async function measureAdjusts(service: Service): Promise<AdjustRow[]> {
  const rows: AdjustRow[] = [];
  for (const { side, runs } of sizes.slice(0, 3)) {
    rows.push(await measureAdjust(service, side, await photo(side), runs));
  }
  return rows;
}

async function main(): Promise<void> {
  if (process.argv.includes('--webhooks')) {
    console.log(webhookTable(await measureWebhooks(await photo(64), 10, 5)));
    return;
  }
  const service = await startService();
  const adjusts = await measureAdjusts(service);
  if (adjustOnly) {
    await service.stop();
    console.log(adjustTable(adjusts));
    return;
  }
  const rows = await measureStages(service);
  const peak1024 = residentMegabytes(service.pids().device, 'VmHWM');
  const longJob = await measureLongJob(service);
  await service.stop();
  const cancel = await measureCancel();

  const memory: Record<string, number> = { '1024² → 4096²': peak1024 };
  if (huge) {
    const fresh = await startService();
    const job = await submit(fresh, await photo(2048), modes.both);
    for (;;) {
      const { status, error } = await getJob(fresh, job.id);
      if (status === 'succeeded') break;
      if (status === 'failed') throw new Error(JSON.stringify(error));
      await delay(500);
    }
    memory['2048² → 8192²'] = residentMegabytes(fresh.pids().device, 'VmHWM');
    await fresh.stop();
  }

  const report = {
    date: new Date().toISOString(),
    model: embeddedModel(),
    cpu: `${cpus().length} × ${cpus()[0]?.model.trim()}`,
    node: process.version,
    readyMs: service.readyMs,
    rows,
    adjusts,
    longJob,
    cancel,
    peakDeviceMegabytes: memory,
  };
  const page = `# Service benchmark

\`make bench${huge ? ' BENCH_FLAGS=--huge' : ''}\`, ${report.date}, ${report.model}, ${report.cpu}, Node ${report.node}. Medians; milliseconds. Ready after ${ms(report.readyMs)} ms.

${stageTable(rows)}

Other dials for the same photo, from what its job has kept:

${adjustTable(adjusts)}

While a 1024² → 4096² job runs: \`/healthz\` p50 ${longJob.healthzP50Ms?.toFixed(1)} ms, p99 ${longJob.healthzP99Ms?.toFixed(1)} ms; event-loop lag of api + supervisor p99 ${longJob.eventLoopLagP99Ms?.toFixed(1)} ms.
With one job at a time, a cancel of it in its UNet stage and then a 128² job: done ${ms(cancel.afterCancelMs)} ms after the cancel, ${ms(cancel.costMs)} ms more than the ${ms(cancel.aloneMs)} ms of the same job alone (medians of ${cancelRounds}; at most ${ms(cancel.highestCostMs)} ms more).

${table(
  ['job', 'peak resident memory of the device process'],
  Object.entries(memory).map(([name, megabytes]) => [name, `${ms(megabytes)} MB`]),
)}
`;
  writeResult('service', page);
  writeFileSync(path.join(results, 'service.json'), `${JSON.stringify(report, null, 2)}\n`);
}

await main();
