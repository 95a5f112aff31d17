/** Jobs that fail as a worker lets them, for an API that has no worker. */
import { UnrecoverableError, Worker } from 'bullmq';
import { expect } from 'vitest';
import type { ErrorCode } from '../../src/errors.ts';
import { type UpscaleJobData, upscaleQueueName } from '../../src/jobs/job.ts';
import { redisOptions } from '../../src/jobs/redis.ts';
import type { TestApi } from './api.ts';

/** Lets all jobs that wait fail. @param ids of those to wait for */
export async function failJobs(
  { redis, queue }: Pick<TestApi, 'redis' | 'queue'>,
  ids: readonly string[],
  codeOf: (data: UpscaleJobData) => ErrorCode,
): Promise<void> {
  const worker = new Worker<UpscaleJobData>(
    upscaleQueueName,
    async ({ data }) => {
      throw new UnrecoverableError(JSON.stringify({ code: codeOf(data) }));
    },
    { connection: redisOptions(redis.url, 'consumer') },
  );
  for (const id of ids) {
    await expect.poll(async () => (await queue.get(id))?.status).toBe('failed');
  }
  await worker.close();
}
