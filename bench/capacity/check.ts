/** Simulated against measured waits of the same setup. */
import { arrivals } from './arrivals.ts';
import { createRandom, type Random } from './random.ts';
import type { MeasuredJob, MeasuredService } from './real-service.ts';
import { simulate } from './simulate.ts';
import { mean, meanWorkMs, quantilesOf, workOf } from './work.ts';

const measures = ['wait p50', 'wait p95', 'wait mean', 'total p50', 'total p95'] as const;
type Measure = (typeof measures)[number];

export interface CheckRow {
  measure: Measure;
  measuredMs: number;
  /** For the arrivals and sizes of the measurement: median over draws of the service times. */
  simulatedMs: number;
  /** Simulated / measured − 1. */
  deviation: number;
  /** For other arrivals of the same process and length: median, and the interval of 95 % of such runs. */
  otherMs: { median: number; low: number; high: number };
}

const draws = 100;
const otherRuns = 400;

/** How many images a millisecond all slots can do. */
export const capacityPerMs = ({ sizes, speeds }: MeasuredService): number =>
  (speeds.length * (speeds.at(-1) ?? 1)) / meanWorkMs(sizes);

export function checkAgainst(
  jobs: readonly MeasuredJob[],
  service: MeasuredService,
  perMinute: number,
  seed: number,
): CheckRow[] {
  const random = createRandom(seed);
  const { speeds, sizes } = service;
  const worker = { speeds };
  const ordered = [...jobs].sort((a, b) => a.createdAt - b.createdAt);
  const first = ordered[0]?.createdAt ?? 0;
  const measured = summarize(
    Float64Array.from(ordered, ({ createdAt, startedAt }) => startedAt - createdAt),
    Float64Array.from(ordered, ({ createdAt, endedAt }) => endedAt - createdAt),
  );
  const same = repeat(draws, () => {
    const list = ordered.map(({ side, createdAt }) => ({
      at: createdAt - first,
      workMs: workOfSide(random, service, side),
    }));
    return simulate({ arrivals: list, worker, workers: 1 });
  });
  const durationMs = (ordered.at(-1)?.createdAt ?? 0) - first;
  const others = repeat(otherRuns, () => {
    const list = arrivals(random, { perMinute, durationMs, workMs: workOf(random, sizes) });
    return simulate({ arrivals: list, worker, workers: 1 });
  });
  return measures.map((measure) => {
    const [simulatedMs = Number.NaN] = quantilesOf(same[measure], [0.5]);
    const [low = 0, median = 0, high = 0] = quantilesOf(others[measure], [0.025, 0.5, 0.975]);
    const measuredMs = measured[measure];
    const deviation = simulatedMs / measuredMs - 1;
    return { measure, measuredMs, simulatedMs, deviation, otherMs: { median, low, high } };
  });
}

function workOfSide(random: Random, { sizes }: MeasuredService, side: number): number {
  const size = sizes.find((one) => one.side === side);
  if (!size) throw new Error(`No service times of ${side} × ${side} images were measured.`);
  return random.pick(size.samplesMs);
}

function repeat(
  times: number,
  run: () => { waitsMs: Float64Array; totalsMs: Float64Array },
): Record<Measure, Float64Array> {
  const runs = Array.from({ length: times }, () => {
    const { waitsMs, totalsMs } = run();
    return summarize(waitsMs, totalsMs);
  });
  return Object.fromEntries(
    measures.map((measure) => [measure, Float64Array.from(runs, (one) => one[measure])]),
  ) as Record<Measure, Float64Array>;
}

function summarize(waitsMs: Float64Array, totalsMs: Float64Array): Record<Measure, number> {
  const [waitP50 = 0, waitP95 = 0] = quantilesOf(waitsMs, [0.5, 0.95]);
  const [totalP50 = 0, totalP95 = 0] = quantilesOf(totalsMs, [0.5, 0.95]);
  return {
    'wait p50': waitP50,
    'wait p95': waitP95,
    'wait mean': mean(waitsMs),
    'total p50': totalP50,
    'total p95': totalP95,
  };
}
