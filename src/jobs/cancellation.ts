/**
 * Cancelling across processes. A record per cancelled job is at once the flag that the supervisor obeys and
 * the tombstone from which `GET /upscale/{id}` still answers `canceled`; a publish makes it immediate. The
 * record wins over whatever BullMQ says of the job, so a job that was cancelled never reads as anything else.
 */
import type { Redis } from 'ioredis';
import type { UpscaleJobData } from './job.ts';

export interface CancelRecord {
  data: UpscaleJobData;
  /** Epoch milliseconds. */
  createdAt: number;
  startedAt?: number;
  canceledAt: number;
}

export const cancelChannel = 'pisa:cancel';
const recordKey = (id: string) => `pisa:canceled:${id}`;

export async function writeCancelRecord(
  redis: Redis,
  id: string,
  record: CancelRecord,
  ttlSeconds: number,
): Promise<void> {
  await redis.set(recordKey(id), JSON.stringify(record), 'EX', ttlSeconds);
}

export async function readCancelRecord(
  redis: Redis,
  id: string,
): Promise<CancelRecord | undefined> {
  const text = await redis.get(recordKey(id));
  return text === null ? undefined : (JSON.parse(text) as CancelRecord);
}

export async function deleteCancelRecord(redis: Redis, id: string): Promise<void> {
  await redis.del(recordKey(id));
}

export async function isCanceled(redis: Redis, id: string): Promise<boolean> {
  return (await redis.exists(recordKey(id))) === 1;
}

/** Tells every supervisor; the one that runs the job acts. */
export async function publishCancel(redis: Redis, id: string): Promise<void> {
  await redis.publish(cancelChannel, id);
}
