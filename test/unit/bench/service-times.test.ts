/** What the simulation is told of a measured service, worked out by hand; and the check of simulated against measured waits. */
import { expect, test } from 'vitest';
import { arrivals } from '../../../bench/capacity/arrivals.ts';
import { capacityPerMs, checkAgainst } from '../../../bench/capacity/check.ts';
import { busyWorkers, planFixed, secondsPerImage } from '../../../bench/capacity/plan.ts';
import { createRandom } from '../../../bench/capacity/random.ts';
import {
  describeService,
  type MeasuredJob,
  meanGapMs,
} from '../../../bench/capacity/real-service.ts';
import { pickSize, workOf } from '../../../bench/capacity/work.ts';

const job = (startedAt: number, endedAt: number, side = 64): MeasuredJob => ({
  side,
  createdAt: 0,
  startedAt,
  endedAt,
});

test('the gap between two jobs of a slot', () => {
  // Slot one: 0–100, 110–200; slot two: 0–150, 170–260.
  const jobs = [job(170, 260), job(0, 100), job(110, 200), job(0, 150)];
  expect(meanGapMs(jobs, 2)).toBe(15);
  expect(meanGapMs(jobs.slice(0, 1), 2)).toBe(0);
});

test('service times and the speed beside another job', () => {
  const { sizes, speeds, gapMs } = describeService(
    [
      {
        alone: [job(0, 100), job(200, 500, 128)],
        // Twice as long beside another one.
        full: [job(0, 200), job(0, 600, 128)],
      },
      // An hour later: the time between is no gap.
      { alone: [], full: [job(3_600_000, 3_600_200), job(3_600_000, 3_600_600, 128)] },
    ],
    [
      { side: 64, share: 0.5 },
      { side: 128, share: 0.5 },
    ],
    2,
  );
  expect(gapMs).toBe(0);
  expect(speeds).toEqual([1, 0.5]);
  expect(sizes).toEqual([
    { side: 64, share: 0.5, samplesMs: [100, 100, 100] },
    { side: 128, share: 0.5, samplesMs: [300, 300, 300] },
  ]);
  // Two at a time, each at half speed, 200 ms of work on average.
  expect(capacityPerMs({ sizes, speeds, gapMs })).toBe(1 / 200);
});

const sizes = [
  { side: 64, share: 0.75, samplesMs: [100] },
  { side: 128, share: 0.25, samplesMs: [500] },
];

test('a mix: sizes by their share', () => {
  const random = createRandom(1);
  const work = workOf(random, sizes);
  const drawn = Array.from({ length: 10_000 }, work);
  expect(drawn.filter((ms) => ms === 100).length / drawn.length).toBeCloseTo(0.75, 1);
});

/** Waits of one worker with one slot, first come first served, each job slower by `factor` than the samples say. */
function measured(perMinute: number, factor: number): MeasuredJob[] {
  const random = createRandom(9);
  let freeAt = 0;
  return [...arrivals(random, { perMinute, durationMs: 300_000, workMs: () => 0 })].map(
    ({ at }) => {
      const { side, samplesMs } = pickSize(random, sizes);
      const startedAt = Math.max(at, freeAt);
      freeAt = startedAt + factor * (samplesMs[0] ?? 0);
      return { side, createdAt: at, startedAt, endedAt: freeAt };
    },
  );
}

test('the check: nothing deviates where nothing differs, and a service that is slower than was measured shows', () => {
  const service = { sizes, speeds: [1], gapMs: 0 };
  const perMinute = 0.6 * capacityPerMs(service) * 60_000;
  const p95 = (jobs: MeasuredJob[]) =>
    checkAgainst(jobs, service, perMinute, 3).find(({ measure }) => measure === 'wait p95');
  const same = p95(measured(perMinute, 1));
  expect(same?.deviation).toBeCloseTo(0, 6);
  expect(same?.otherMs.low).toBeLessThan(same?.measuredMs ?? 0);
  expect(same?.otherMs.high).toBeGreaterThan(same?.measuredMs ?? 0);
  expect(p95(measured(perMinute, 1.2))?.deviation).toBeLessThan(-0.2);
});

test('planning: one worker fewer would not be enough', () => {
  const input = { worker: { speeds: [1, 0.6] }, sizes, pricePerHour: 2, seed: 4 };
  // 200 ms of work at 1.2 times the speed of one.
  expect(secondsPerImage(input)).toBeCloseTo(1 / 6, 10);
  const perMinute = 600;
  expect(busyWorkers(input, perMinute)).toBeCloseTo(10 / 6, 10);
  const strict = planFixed({ ...input, waitTargetSeconds: 0.05 }, { perMinute });
  const loose = planFixed({ ...input, waitTargetSeconds: 100 }, { perMinute });
  expect(strict.waitSeconds.p95).toBeLessThanOrEqual(0.05);
  expect(strict.workers).toBeGreaterThan(loose.workers);
  expect(Math.round(loose.workers)).toBe(2);
  // 2 workers at 2 an hour for 36,000 images an hour.
  expect(loose.costPerThousand).toBeCloseTo((2 * 2) / 36, 2);
});
