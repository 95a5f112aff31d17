/** Workers, waits and cost for a rate of images, by simulation. */
import { type AutoscalerSettings, chartAutoscaler, jobsPerWorker } from '../scaling/controller.ts';
import { arrivals, type Bursts } from './arrivals.ts';
import { createRandom } from './random.ts';
import { type SimulationResult, simulate, type WorkerKind } from './simulate.ts';
import { type MeasuredSize, meanWorkMs, quantilesOf, workOf } from './work.ts';

export interface PlanInput {
  worker: WorkerKind;
  sizes: readonly MeasuredSize[];
  /** The wait that 95 % of the images shall not exceed. */
  waitTargetSeconds: number;
  /** Of one worker. */
  pricePerHour: number;
  seed: number;
}

export interface PlanRow {
  workers: number;
  mostWorkers: number;
  utilization: number;
  waitSeconds: { p50: number; p95: number; p99: number };
  costPerThousand: number;
}

interface Load {
  perMinute: number;
  bursts?: Bursts | undefined;
}

type ServiceInput = Pick<PlanInput, 'worker' | 'sizes'>;

const hourMs = 3_600_000;
const warmUpShare = 0.05;

/** Of a worker that always has enough to do. */
export const secondsPerImage = ({ worker, sizes }: ServiceInput): number =>
  meanWorkMs(sizes) / 1000 / (worker.speeds.length * (worker.speeds.at(-1) ?? 1));

/** Workers that would be busy all the time if none ever had to be idle. */
export const busyWorkers = (input: ServiceInput, perMinute: number): number =>
  (perMinute / 60) * secondsPerImage(input);

/** Long enough for rare waits and bursts to come often; short enough for the highest rates. */
const durationMs = (perMinute: number): number =>
  Math.min(60, Math.max(2, 20_000 / perMinute / 60)) * hourMs;

/** The fewest workers, always on, with which 95 % of the images wait no longer than they should. */
export function planFixed(input: PlanInput, load: Load): PlanRow {
  const run = (workers: number) => describe(input, load, simulateLoad(input, load, workers));
  const isEnough = (row: PlanRow) => row.waitSeconds.p95 <= input.waitTargetSeconds;
  let tooFew = Math.floor(busyWorkers(input, load.perMinute));
  let step = 1;
  let enough = tooFew + step;
  let best = run(enough);
  while (!isEnough(best)) {
    tooFew = enough;
    step *= 2;
    enough += step;
    best = run(enough);
  }
  while (enough - tooFew > 1) {
    const middle = Math.floor((enough + tooFew) / 2);
    const row = run(middle);
    if (isEnough(row)) {
      enough = middle;
      best = row;
    } else {
      tooFew = middle;
    }
  }
  return best;
}

/** Workers that come and go, as KEDA and the HorizontalPodAutoscaler decide. */
export function planAutoscaled(
  input: PlanInput,
  load: Load,
  { minWorkers, coldStartMs }: { minWorkers: number; coldStartMs: number },
): PlanRow {
  const settings: AutoscalerSettings = {
    ...chartAutoscaler,
    minWorkers,
    // Out of the way: what is asked for is a result.
    maxWorkers: 1_000_000,
    jobsPerWorker: jobsPerWorker(secondsPerImage(input), input.waitTargetSeconds),
  };
  return describe(input, load, simulateLoad(input, load, { ...settings, coldStartMs }));
}

function simulateLoad(
  { worker, sizes, seed }: PlanInput,
  { perMinute, bursts }: Load,
  workers: Parameters<typeof simulate>[0]['workers'],
): SimulationResult {
  // The same images for every number of workers.
  const random = createRandom(seed);
  const length = durationMs(perMinute);
  return simulate({
    arrivals: arrivals(random, {
      perMinute,
      durationMs: length,
      workMs: workOf(random, sizes),
      bursts,
    }),
    worker,
    workers,
    warmUpMs: warmUpShare * length,
  });
}

function describe(
  input: PlanInput,
  { perMinute }: Load,
  { waitsMs, workerMs, spanMs, mostWorkers }: SimulationResult,
): PlanRow {
  const [p50 = 0, p95 = 0, p99 = 0] = quantilesOf(waitsMs, [0.5, 0.95, 0.99]).map(
    (wait) => wait / 1000,
  );
  const workers = workerMs / spanMs;
  return {
    workers,
    mostWorkers,
    utilization: busyWorkers(input, perMinute) / workers,
    waitSeconds: { p50, p95, p99 },
    costPerThousand: ((workerMs / hourMs) * input.pricePerHour * 1000) / waitsMs.length,
  };
}
