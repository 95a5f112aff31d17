/** The reckoning of how pods followed a queue, by hand-made samples. */
import { expect, test } from 'vitest';
import { followed, type Sample } from './scaling-table.ts';

/** One a second, of pods wanted and pods. */
const samples = (...rows: [wanted: number, pods: number][]): Sample[] =>
  rows.map(([wanted, pods], seconds) => ({ seconds, jobs: wanted, wanted, pods }));

test('a rise is followed when as many pods are there as were wanted, or as are still wanted', () => {
  const [first, second, ...others] = followed(
    samples([0, 0], [3, 0], [5, 1], [5, 3], [9, 3], [4, 3], [4, 4]),
  );
  expect(first).toEqual({ seconds: 1, pods: 0, wanted: 3, reached: true, tookSeconds: 2 });
  // Five at first, then four were enough.
  expect(second).toEqual({ seconds: 3, pods: 3, wanted: 4, reached: true, tookSeconds: 3 });
  expect(others).toEqual([]);
});

test('a rise that nothing follows is not reached', () => {
  const steps = followed(samples([0, 1], [4, 1], [4, 2], [4, 2]));
  expect(steps.map(({ reached }) => reached)).toEqual([false]);
});
