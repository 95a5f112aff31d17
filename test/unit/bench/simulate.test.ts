/** The simulation against queues whose waits are known by formula. */
import { expect, test } from 'vitest';
import { type Arrival, arrivals } from '../../../bench/capacity/arrivals.ts';
import { createRandom, type Random } from '../../../bench/capacity/random.ts';
import { type SimulationResult, simulate } from '../../../bench/capacity/simulate.ts';
import { mean, quantilesOf } from '../../../bench/capacity/work.ts';
import { chartAutoscaler } from '../../../bench/scaling/controller.ts';

const meanMs = 1000;

/** Jobs of 1 s on average, on workers that run one at a time. */
function run(
  workers: number,
  utilization: number,
  workMs: (random: Random) => number,
  jobs = 150_000,
): SimulationResult {
  const random = createRandom(7);
  const perMinute = (60_000 * workers * utilization) / meanMs;
  return simulate({
    arrivals: arrivals(random, {
      perMinute,
      durationMs: (jobs / perMinute) * 60_000,
      workMs: () => workMs(random),
    }),
    worker: { speeds: [1] },
    workers,
    warmUpMs: 100_000,
  });
}

const exponential = (random: Random): number => random.exponential(meanMs);
const constant = (): number => meanMs;
const meanWait = ({ waitsMs }: SimulationResult): number => mean(waitsMs);

/** Erlang's C formula: the probability that a job waits, of `c` workers. */
function erlangC(c: number, utilization: number): number {
  const offered = c * utilization;
  let term = 1;
  let sum = 1;
  for (let n = 1; n < c; n += 1) {
    term *= offered / n;
    sum += term;
  }
  const last = (term * offered) / c / (1 - utilization);
  return last / (sum + last);
}
const waitOfMMc = (c: number, utilization: number): number =>
  (erlangC(c, utilization) * meanMs) / (c * (1 - utilization));
/** Cosmetatos' approximation, within a few per cent (Tijms, A First Course in Stochastic Models, section 9.6). */
const waitOfMDc = (c: number, utilization: number): number => {
  const spread =
    1 + ((1 - utilization) * (c - 1) * (Math.sqrt(4 + 5 * c) - 2)) / (16 * utilization * c);
  return 0.5 * waitOfMMc(c, utilization) * spread;
};

const isWithin = (value: number, expected: number, relative: number): void => {
  expect(Math.abs(value - expected)).toBeLessThan(relative * expected);
};

test.each([0.5, 0.7])('M/M/1 at %d: the mean wait and its quantiles', (utilization) => {
  const result = run(1, utilization, exponential);
  isWithin(meanWait(result), (utilization * meanMs) / (1 - utilization), 0.04);
  const qs = [0.75, 0.95];
  for (const [index, wait] of quantilesOf(result.waitsMs, qs).entries()) {
    const above = 1 - (qs[index] ?? 0);
    isWithin(wait, (Math.log(utilization / above) * meanMs) / (1 - utilization), 0.06);
  }
});

test('M/D/1: half the wait of M/M/1', () => {
  isWithin(meanWait(run(1, 0.8, constant)), (0.5 * 0.8 * meanMs) / 0.2, 0.04);
});

test.each([
  { c: 4, utilization: 0.7 },
  { c: 12, utilization: 0.7 },
])('M/M/c, c = $c: the mean wait, and who need not wait', ({ c, utilization }) => {
  const result = run(c, utilization, exponential, 600_000);
  isWithin(meanWait(result), waitOfMMc(c, utilization), 0.05);
  const waited = result.waitsMs.filter((wait) => wait > 0).length / result.waitsMs.length;
  isWithin(waited, erlangC(c, utilization), 0.03);
});

test.each([2, 10])('M/D/c, c = %d', (c) => {
  isWithin(meanWait(run(c, 0.8, constant)), waitOfMDc(c, 0.8), 0.05);
});

test('a shared processor: the mean time depends on the mean work only (M/G/1 PS)', () => {
  const random = createRandom(3);
  const utilization = 0.6;
  const result = simulate({
    arrivals: arrivals(random, {
      perMinute: (60_000 * utilization) / meanMs,
      durationMs: 1e8,
      // 1 s on average: most are short, a tenth is long.
      workMs: () => (random.uniform() < 0.1 ? 5500 : 500),
    }),
    worker: { speeds: Array.from({ length: 500 }, (_, index) => 1 / (index + 1)) },
    workers: 1,
  });
  expect(meanWait(result)).toBe(0);
  isWithin(mean(result.totalsMs), meanMs / (1 - utilization), 0.04);
});

test('two slots: by hand', () => {
  const at = (seconds: number, work: number): Arrival => ({ at: seconds * 1000, workMs: work });
  const { waitsMs, totalsMs, workerMs } = simulate({
    // Both run at half speed from 1 s on; the third waits for the first, which ends at 3 s.
    arrivals: [at(0, 2000), at(1, 2000), at(1.5, 1000)],
    worker: { speeds: [1, 0.5] },
    workers: 1,
  });
  expect([...waitsMs]).toEqual([0, 0, 1500]);
  // The others have 1 s of work left each, and end together at 5 s.
  expect([...totalsMs].map(Math.round)).toEqual([3000, 4000, 3500]);
  expect(workerMs).toBe(5000);
});

test('the same seed gives the same waits, another seed others', () => {
  const waits = (seed: number) => {
    const random = createRandom(seed);
    const workMs = () => random.exponential(meanMs);
    const list = arrivals(random, { perMinute: 50, durationMs: 600_000, workMs });
    return simulate({ arrivals: list, worker: { speeds: [1] }, workers: 1 }).waitsMs;
  };
  expect(waits(1)).toEqual(waits(1));
  expect(waits(1)).not.toEqual(waits(2));
});

test('bursts keep the mean rate, and make waits longer', () => {
  const bursts = { factor: 5, meanMs: 60_000, share: 0.1 };
  const list = (withBursts: boolean) => [
    ...arrivals(createRandom(5), {
      perMinute: 60,
      durationMs: 20 * 3_600_000,
      workMs: constant,
      bursts: withBursts ? bursts : undefined,
    }),
  ];
  const bursty = list(true);
  isWithin(bursty.length, 60 * 60 * 20, 0.08);
  const p95 = (all: Arrival[]): number => {
    const { waitsMs } = simulate({ arrivals: all, worker: { speeds: [1] }, workers: 2 });
    return quantilesOf(waitsMs, [0.95])[0] ?? Number.NaN;
  };
  expect(p95(bursty)).toBeGreaterThan(4 * p95(list(false)));
});

const scaling = {
  ...chartAutoscaler,
  maxWorkers: 10,
  jobsPerWorker: 2,
  coldStartMs: 60_000,
};

test('from zero: the first job waits for the look of KEDA and the cold start; then all workers go', () => {
  const { waitsMs, mostWorkers, workersAtEnd, workerMs } = simulate({
    arrivals: [{ at: 1000, workMs: 5000 }],
    worker: { speeds: [1] },
    workers: scaling,
  });
  // Looked at 15 s, up at 75 s.
  expect([...waitsMs]).toEqual([74_000]);
  expect(mostWorkers).toBe(1);
  expect(workersAtEnd).toBe(0);
  // Active last at the look of 75 s; more than 300 s later is the look of 390 s.
  expect(workerMs).toBe(375_000);
});

test('a worker that is to end finishes what it runs', () => {
  const result = simulate({
    // Twenty long jobs ask for ten workers; once most are done, fewer are wanted while the rest still run.
    arrivals: Array.from({ length: 20 }, (_, job) => ({
      at: job,
      workMs: job < 17 ? 60_000 : 3_600_000,
    })),
    worker: { speeds: [1] },
    workers: { ...scaling, coldStartMs: 0 },
  });
  expect(result.totalsMs.length).toBe(20);
  expect(result.mostWorkers).toBe(10);
  expect(result.drained).toBeGreaterThan(0);
  expect(result.workersAtEnd).toBe(0);
});
