/** The bytes of a finished job. */
import { AppError } from '../errors.ts';
import { orUnavailable } from '../jobs/redis.ts';
import type { ObjectStore } from '../storage/object-store.ts';
import type { FinishedJob } from './result-headers.ts';

/** @throws result_expired | redis_unavailable */
export async function readResult(store: ObjectStore, job: FinishedJob): Promise<Buffer> {
  const { key, expiresAt } = job.result.output;
  const bytes = expiresAt > Date.now() ? await orUnavailable(() => store.get(key)) : undefined;
  if (bytes) return bytes;
  throw new AppError(
    'result_expired',
    `The result was kept until ${new Date(expiresAt).toISOString()}. Send the image again.`,
  );
}
