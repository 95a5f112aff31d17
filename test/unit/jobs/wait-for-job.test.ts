/** What wakes a request that waits for its job. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { JobListener } from '../../../src/jobs/job-events.ts';
import type { JobSnapshot, JobStatus } from '../../../src/jobs/job-snapshot.ts';
import { waitForJob } from '../../../src/jobs/wait-for-job.ts';

const progress = { stage: 'predict_residual', fraction: 0.5 } as const;
let listeners: Set<JobListener>;
let status: JobStatus;
const look = vi.fn(async () => ({ id: 'a', status }) as JobSnapshot);

beforeEach(() => {
  vi.useFakeTimers();
  listeners = new Set();
  status = 'processing';
  look.mockClear();
});
afterEach(() => {
  vi.useRealTimers();
});

const subscribe = (_id: string, listener: JobListener) => {
  listeners.add(listener);
  return () => listeners.delete(listener);
};
const tell = async (change: Parameters<JobListener>[0]): Promise<void> => {
  for (const listener of [...listeners]) listener(change);
  await vi.advanceTimersByTimeAsync(0);
};
const wait = (timeoutMs = 60_000, signal?: AbortSignal) =>
  waitForJob('a', { events: { subscribe }, look, timeoutMs, signal });

test('progress does not make it look', async () => {
  const waited = wait();
  await vi.advanceTimersByTimeAsync(0);
  for (let event = 0; event < 100; event++) await tell({ progress });
  expect(look).toHaveBeenCalledOnce();
  status = 'succeeded';
  await tell({});
  expect(await waited).toMatchObject({ status: 'succeeded' });
  expect(look).toHaveBeenCalledTimes(2);
  expect(listeners.size).toBe(0);
});

test('it looks every 5 s, should events be lost, whatever progress comes', async () => {
  const waited = wait();
  for (let second = 0; second < 11; second++) {
    await vi.advanceTimersByTimeAsync(1000);
    await tell({ progress });
  }
  expect(look).toHaveBeenCalledTimes(3);
  status = 'failed';
  await vi.advanceTimersByTimeAsync(5000);
  expect(await waited).toMatchObject({ status: 'failed' });
});

test('when its time is over, or its client has gone, it tells how the job stands', async () => {
  const waited = wait(2000);
  await vi.advanceTimersByTimeAsync(2000);
  expect(await waited).toMatchObject({ status: 'processing' });
  const gone = new AbortController();
  const left = wait(60_000, gone.signal);
  await vi.advanceTimersByTimeAsync(0);
  gone.abort();
  expect(await left).toMatchObject({ status: 'processing' });
  expect(listeners.size).toBe(0);
});
