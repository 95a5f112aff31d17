/** What those who watch a job, or wait for it, are told, and what that costs. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import type { JobListener } from '../../../src/jobs/job-events.ts';
import type { JobSnapshot, JobStatus } from '../../../src/jobs/job-snapshot.ts';
import { JobWatches } from '../../../src/jobs/job-watches.ts';

const progress = { stage: 'predict_residual', fraction: 0.5 } as const;
const accepted = { id: 'a', status: 'queued' } as JobSnapshot;
/** Subscriptions to the job. */
let listeners: Set<JobListener>;
let onQueue: () => void;
let status: JobStatus;
const look = vi.fn<(id: string) => Promise<JobSnapshot | undefined>>();
const order = vi.fn(async () => ['b', 'a']);
let watches: JobWatches;

beforeEach(() => {
  vi.useFakeTimers();
  listeners = new Set();
  status = 'processing';
  look.mockReset();
  look.mockImplementation(async () => ({ id: 'a', status }) as JobSnapshot);
  order.mockClear();
  const subscribe = (_id: string, listener: JobListener) => {
    listeners.add(listener);
    return () => listeners.delete(listener);
  };
  const onEvery = (what: string, listener: () => void) => {
    if (what === 'queue') onQueue = listener;
    return () => {};
  };
  watches = new JobWatches({ events: { subscribe, onEvery }, look, order });
});
afterEach(() => {
  // Whoever was told, ran out of time or has left is forgotten.
  expect(listeners.size).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
  vi.useRealTimers();
});

const settle = () => vi.advanceTimersByTimeAsync(0);
const tell = async (change: Parameters<JobListener>[0]): Promise<void> => {
  for (const listener of [...listeners]) listener(change);
  await settle();
};
const wait = (timeoutMs = 60_000, signal?: AbortSignal) =>
  watches.waitFor(accepted, timeoutMs, signal);

test('progress does not make a wait look', async () => {
  const waited = wait();
  await settle();
  for (let event = 0; event < 100; event++) await tell({ progress });
  expect(look).toHaveBeenCalledOnce();
  status = 'succeeded';
  await tell({});
  expect(await waited).toMatchObject({ status: 'succeeded' });
  expect(look).toHaveBeenCalledTimes(2);
});

test('a change is looked at once, however many wait', async () => {
  const first = wait();
  await settle();
  const waits = [first, ...Array.from({ length: 50 }, () => wait())];
  await settle();
  expect(listeners.size).toBe(1);
  expect(look).toHaveBeenCalledOnce();
  status = 'succeeded';
  await tell({});
  for (const job of await Promise.all(waits)) expect(job).toMatchObject({ status: 'succeeded' });
  expect(look).toHaveBeenCalledTimes(2);
});

test('it is looked at every 10 s, should events be lost, whatever progress comes', async () => {
  const waited = wait();
  for (let second = 0; second < 22; second++) {
    await vi.advanceTimersByTimeAsync(1000);
    await tell({ progress });
  }
  expect(look).toHaveBeenCalledTimes(3);
  status = 'failed';
  await vi.advanceTimersByTimeAsync(11_000);
  expect(await waited).toMatchObject({ status: 'failed' });
});

test('a look that fails is made again a second later, and ends no wait', async () => {
  look.mockRejectedValueOnce(new Error('away')).mockRejectedValueOnce(new Error('away'));
  const waited = wait();
  await vi.advanceTimersByTimeAsync(1000);
  expect(look).toHaveBeenCalledTimes(2);
  status = 'succeeded';
  await vi.advanceTimersByTimeAsync(1000);
  expect(await waited).toMatchObject({ status: 'succeeded' });
});

test('when its time is over a wait tells how the job stands then', async () => {
  const waited = wait(2000);
  await vi.advanceTimersByTimeAsync(1999);
  look.mockResolvedValue({ ...accepted, queuePosition: 3 });
  await vi.advanceTimersByTimeAsync(1);
  expect(await waited).toMatchObject({ status: 'queued', queuePosition: 3 });
});

test('when its time is over and nothing could be seen, it tells of the job as it was accepted', async () => {
  look.mockRejectedValue(new Error('away'));
  const waited = wait(1500);
  await vi.advanceTimersByTimeAsync(1500);
  expect(await waited).toBe(accepted);
});

test('a wait ends when its client has gone, whatever is being looked up', async () => {
  const gone = new AbortController();
  const left = wait(60_000, gone.signal);
  await settle();
  look.mockReturnValue(new Promise(() => {}));
  await tell({});
  gone.abort();
  expect(await left).toMatchObject({ status: 'processing' });
  expect(await wait(60_000, gone.signal)).toBe(accepted);
});

test('a job that is gone, or has ended already, is not waited for', async () => {
  const ended = { ...accepted, status: 'succeeded' } as const;
  expect(await watches.waitFor(ended, 60_000)).toBe(ended);
  expect(look).not.toHaveBeenCalled();
  look.mockResolvedValue(undefined);
  expect(await wait()).toBeUndefined();
});

test('a wait ends in time however slow looks are, and whatever progress comes', async () => {
  const looked = { id: 'a', status: 'processing' } as JobSnapshot;
  look.mockImplementation(() => new Promise((resolve) => setTimeout(resolve, 250, looked)));
  const waited = vi.fn();
  void wait(1000).then(waited);
  for (let event = 0; event < 11; event++) {
    await vi.advanceTimersByTimeAsync(200);
    await tell({ progress });
  }
  expect(waited).toHaveBeenCalledWith(expect.objectContaining({ status: 'processing' }));
});

test('nor does a look that never ends hold it up', async () => {
  look.mockImplementation(() => new Promise(() => {}));
  const waited = wait(1000);
  await vi.advanceTimersByTimeAsync(2000);
  expect(await waited).toEqual(accepted);
});

test('of what was under its id before a wait is not told', async () => {
  let answer: (job: JobSnapshot | undefined) => void = () => {};
  const slow = () =>
    new Promise<JobSnapshot | undefined>((resolve) => {
      answer = resolve;
    });
  look.mockImplementationOnce(slow);
  const told = vi.fn();
  const stop = watches.watch('a', told);
  // Another one is entered while a look at the one before is under way, and waited for.
  const waited = wait();
  answer(undefined);
  await settle();
  expect(told.mock.calls).toEqual([[undefined], [{ id: 'a', status: 'processing' }]]);
  status = 'failed';
  await tell({});
  expect(await waited).toMatchObject({ status: 'failed' });
  // And once more, after a look.
  status = 'processing';
  const again = wait();
  await settle();
  status = 'succeeded';
  await tell({});
  expect(await again).toMatchObject({ status: 'succeeded' });
  stop();
});

test('whoever comes during a look hears of what it finds', async () => {
  const stop = watches.watch('a', () => {});
  await settle();
  status = 'succeeded';
  for (const listener of listeners) listener({});
  const waited = wait();
  await settle();
  expect(await waited).toMatchObject({ status: 'succeeded' });
  stop();
});

test('places in the queue are read for those who watch, not for those who wait', async () => {
  status = 'queued';
  const gone = new AbortController();
  const waited = wait(60_000, gone.signal);
  onQueue();
  await vi.advanceTimersByTimeAsync(3000);
  expect(order).not.toHaveBeenCalled();
  const told = vi.fn();
  const stop = watches.watch('a', told);
  onQueue();
  await vi.advanceTimersByTimeAsync(3000);
  expect(order).toHaveBeenCalledOnce();
  expect(told).toHaveBeenLastCalledWith({ id: 'a', status: 'queued', queuePosition: 1 });
  stop();
  onQueue();
  await vi.advanceTimersByTimeAsync(3000);
  expect(order).toHaveBeenCalledOnce();
  gone.abort();
  expect(await waited).toMatchObject({ status: 'queued' });
});
