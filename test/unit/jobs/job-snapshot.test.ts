import { describe, expect, test } from 'vitest';
import { snapshotOfJob, type UpscaleJob } from '../../../src/jobs/job-snapshot.ts';

/** The fields of a BullMQ job that count. */
const job = (fields: object) =>
  ({ id: 'a', data: {}, timestamp: 1, progress: 0, ...fields }) as unknown as UpscaleJob;

describe('snapshotOfJob', () => {
  test.each(['waiting', 'prioritized', 'delayed', 'unknown'])('%s is queued', (state) => {
    const snapshot = snapshotOfJob(
      job({ processedOn: 2, failedReason: 'of the last attempt' }),
      state,
    );
    expect(snapshot).toEqual({ id: 'a', status: 'queued', data: {}, createdAt: 1 });
  });

  test('active is processing, with progress as soon as there is any', () => {
    const started = { id: 'a', status: 'processing', data: {}, createdAt: 1, startedAt: 2 };
    expect(snapshotOfJob(job({ processedOn: 2 }), 'active')).toEqual(started);
    const progress = { stage: 'encode_image', fraction: 0.9 };
    expect(snapshotOfJob(job({ processedOn: 2, progress }), 'active')).toEqual({
      ...started,
      progress,
    });
  });

  test('a job that finished after its state was read is finished', () => {
    const done = { processedOn: 2, finishedOn: 3, returnvalue: { totalMs: 1 } };
    expect(snapshotOfJob(job(done), 'active')).toMatchObject({
      status: 'succeeded',
      completedAt: 3,
      result: { totalMs: 1 },
    });
  });

  test('an earlier failed attempt does not make a job that succeeded a failed one', () => {
    const done = { finishedOn: 3, returnvalue: { totalMs: 1 }, failedReason: 'device_lost' };
    expect(snapshotOfJob(job(done), 'completed').status).toBe('succeeded');
  });

  test.each([
    ['corrupt_image', 'failed'],
    ['canceled', 'canceled'],
  ])('the code %s comes back out of the text, as %s', (code, status) => {
    const failedReason = JSON.stringify({ code, detail: 'Why.' });
    const snapshot = snapshotOfJob(job({ finishedOn: 3, failedReason }), 'failed');
    expect(snapshot).toMatchObject({ status, error: { code, message: 'Why.' } });
  });
});
