/**
 * Which job made the image of which request: a request for what has been made already is answered from the stored
 * result. The content key says what was asked (image and parameters), the bundle's hash by what it was made.
 *
 * A job that is answered so never enters the queue: its record here is all there is of it.
 */
import type { Redis } from 'ioredis';
import type { UpscaleJobData, UpscaleJobResult } from './job.ts';
import { JobRecords } from './job-records.ts';

const madeKey = (contentKey: string, bundleSha256: string): string =>
  `pisa:made:${contentKey}:${bundleSha256}`;

/** Call when a job has succeeded. The entry goes with the result. */
export async function rememberResult(
  redis: Redis,
  id: string,
  { contentKey }: UpscaleJobData,
  { model, output }: UpscaleJobResult,
): Promise<void> {
  const leftMs = output.expiresAt - Date.now();
  if (contentKey === undefined || leftMs <= 0) return;
  await redis.set(madeKey(contentKey, model.sha256), id, 'PX', Math.ceil(leftMs));
}

/** KEYS[1]; ARGV: id. */
const forgetScript = `if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end`;

/** Call when a job is deleted. What another job has made since stays. */
export async function forgetResult(
  redis: Redis,
  id: string,
  { contentKey }: UpscaleJobData,
  { model }: UpscaleJobResult,
): Promise<void> {
  if (contentKey === undefined) return;
  await redis.eval(forgetScript, 1, madeKey(contentKey, model.sha256), id);
}

/** @returns the id of a job that has made this; it may have been deleted since */
export async function findResult(
  redis: Redis,
  contentKey: string,
  bundleSha256: string,
): Promise<string | undefined> {
  return (await redis.get(madeKey(contentKey, bundleSha256))) ?? undefined;
}

/** A job that was answered from the result of another. */
export interface ReuseRecord {
  data: UpscaleJobData;
  /** Epoch milliseconds: it was created and completed at once. */
  createdAt: number;
  result: UpscaleJobResult;
}

export const reuseRecords = new JobRecords<ReuseRecord>('pisa:reused:');
