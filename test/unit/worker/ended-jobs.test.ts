/** What of a job is deleted when it has ended, whatever fails on the way. */
import type { Redis } from 'ioredis';
import { beforeEach, expect, test, vi } from 'vitest';
import { outputKey, sideKeys, type UpscaleJobResult } from '../../../src/jobs/job.ts';
import type { UpscaleJob } from '../../../src/jobs/job-snapshot.ts';
import type { ObjectStore } from '../../../src/storage/object-store.ts';
import { EndedJobs } from '../../../src/worker/ended-jobs.ts';

const id = '7f0b7d1c-0000-4000-8000-000000000000';
const all = [...sideKeys(id), outputKey(id)];
const job = { id, data: {} } as UpscaleJob;
const result = { output: { key: outputKey(id), expiresAt: 0 } } as UpscaleJobResult;
const kept = [{ key: sideKeys(id)[0] ?? '', bytes: 1, expiresAt: 0 }];

/** What was done, in its order: scripts of Redis, and keys that the store deleted. */
let done: string[];
let isCanceled: boolean;
const redis = {
  exists: async () => (isCanceled ? 1 : 0),
  eval: async () => done.push('forget'),
};
const remove = vi.fn<ObjectStore['delete']>();
const warn = vi.fn();
let ended: EndedJobs;

beforeEach(() => {
  done = [];
  isCanceled = false;
  warn.mockReset();
  remove.mockReset();
  remove.mockImplementation(async (key) => void done.push(key));
  ended = new EndedJobs({
    redis: redis as unknown as Redis,
    store: { delete: remove } as unknown as ObjectStore,
    logger: { warn },
    keepMaxBytes: 1000,
  });
});

test.each<[string, () => void]>([
  ['failed', () => ended.tidyFailed(id)],
  [
    'was canceled in the last moment',
    () => {
      isCanceled = true;
      ended.tidySucceeded(job, { ...result, kept });
    },
  ],
])('of a job that %s nothing stays, though the store fails at the first object', async (_, end) => {
  const away = new Error('away');
  remove.mockRejectedValueOnce(away);
  end();
  await ended.tidied();
  expect(remove.mock.calls.map(([key]) => key)).toEqual(all);
  // Nobody may find in the index what is being deleted.
  expect(done).toEqual(['forget', ...all.slice(1)]);
  expect(warn).toHaveBeenCalledExactlyOnceWith({ err: away }, expect.any(String));
});

test('of a job that has succeeded its result stays, and what is kept for other dials', async () => {
  ended.tidySucceeded(job, { ...result, kept });
  await ended.tidied();
  expect(done).toEqual([]);
  ended.tidySucceeded(job, { ...result, kept: [] });
  await ended.tidied();
  expect(done).toEqual(['forget', ...sideKeys(id)]);
});
