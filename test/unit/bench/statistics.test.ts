/** The straight line by which a long run tells growth from noise. */
import { expect, test } from 'vitest';
import { describe as describeMemory, grows, verdict } from '../../../bench/memory.ts';
import { type Point, trend } from '../../../bench/statistics.ts';
import { generator } from '../../support/damage.ts';

const random = generator(7);
/** Near enough to normal: the sum of twelve. */
const normal = (): number =>
  Array.from({ length: 12 }, () => random(10_000) / 10_000).reduce((sum, one) => sum + one, -6);

/** @param memory share of a value that is left in the next one */
function noise(points: number, slope: number, memory = 0): Point[] {
  let last = 0;
  return Array.from({ length: points }, (_, x) => {
    last = memory * last + normal();
    return { x, y: slope * x + last };
  });
}

test('a line without noise has its slope, and no doubt', () => {
  const { slope, halfWidth } = trend([0, 1, 2, 3, 4, 5, 6, 7].map((x) => ({ x, y: 3 * x - 1 })));
  expect(slope).toBeCloseTo(3, 10);
  expect(halfWidth).toBeCloseTo(0, 10);
});

test.each([
  ['independent', 0],
  ['slow', 0.7],
])('of a hundred intervals over %s noise about 95 hold the slope', (_name, memory) => {
  let held = 0;
  for (let run = 0; run < 100; run += 1) {
    const { slope, halfWidth } = trend(noise(60, 0.5, memory));
    if (Math.abs(slope - 0.5) <= halfWidth) held += 1;
  }
  expect(held).toBeGreaterThanOrEqual(88);
});

test('too few points say nothing', () => {
  expect(trend(noise(3, 1)).halfWidth).toBe(Number.POSITIVE_INFINITY);
});

test('a leak is seen, a warm-up that has ended is not', () => {
  const hours = (y: (step: number) => number): Point[] =>
    Array.from({ length: 360 }, (_, step) => ({ x: step / 720, y: y(step) + normal() }));
  const leak = describeMemory(
    'leak',
    hours((step) => 100 + step / 36),
  );
  expect(leak.growth.slope).toBeGreaterThan(18);
  expect(grows(leak)).toBe(true);
  const warmUp = describeMemory(
    'warm-up',
    hours((step) => 150 - 50 * Math.exp(-step / 15)),
  );
  expect(warmUp.last - warmUp.first).toBeGreaterThan(20);
  expect(grows(warmUp)).toBe(false);
});

/** Half an hour of looks, after warming up: 360 of them, a share of the time from 0 to 1 in each. */
const halfHour = (y: (time: number) => number): Point[] =>
  Array.from({ length: 360 }, (_, look) => ({ x: look / 720, y: 150 + y(look / 360) + normal() }));
const growth = (y: (time: number) => number): boolean =>
  grows(describeMemory('heap', halfHour(y), 0));

test.each<[string, (time: number) => number]>([
  ['faster and faster', (time) => 20 * time ** 2],
  ['faster and faster, without an end', (time) => 20 * (Math.exp(5 * time - 5) - Math.exp(-5))],
  ['only from two thirds of the run on', (time) => 60 * Math.max(0, time - 2 / 3)],
  ['at one moment', (time) => (time > 0.5 ? 10 : 0)],
  ['slower and slower', (time) => 20 * Math.sqrt(time)],
])('a leak that grows %s is seen', (_name, y) => {
  expect(growth(y)).toBe(true);
});

test.each<[string, (time: number) => number]>([
  ['noise', () => 0],
  ['garbage that is collected now and then', (time) => 30 * ((60 * time) % 1)],
  ['garbage that is seldom collected', (time) => 30 * ((4 * time) % 1)],
  ['a slow coming and going', (time) => 15 * Math.sin(20 * time)],
])('%s is no leak', (_name, y) => {
  const runs = Array.from({ length: 50 }, () => growth(y));
  // Of a hundred intervals three or so are above zero by chance.
  expect(runs.filter(Boolean).length).toBeLessThanOrEqual(4);
});

test('a series that is too short says so, whatever its ends are', () => {
  const short = describeMemory('heap', halfHour((time) => 20 * time ** 2).slice(-18), 0);
  expect(grows(short)).toBe(false);
  expect(verdict(short)).toEqual(['', 'too short to tell']);
});
