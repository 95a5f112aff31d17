/**
 * Cancelling across processes. A record per cancelled job is at once the flag that the supervisor obeys and
 * the tombstone from which `GET /upscale/{id}` still answers `canceled`; a publish makes it immediate. The
 * record wins over whatever BullMQ says of the job, so a job that was cancelled never reads as anything else.
 */
import type { Redis } from 'ioredis';
import type { UpscaleJobData } from './job.ts';
import { JobRecords } from './job-records.ts';

export interface CancelRecord {
  data: UpscaleJobData;
  /** Epoch milliseconds. */
  createdAt: number;
  startedAt?: number;
  canceledAt: number;
}

export const cancelChannel = 'pisa:cancel';
export const cancelRecords = new JobRecords<CancelRecord>('pisa:canceled:');

export const isCanceled = (redis: Redis, id: string): Promise<boolean> =>
  cancelRecords.has(redis, id);

/** Tells every supervisor; the one that runs the job acts. */
export async function publishCancel(redis: Redis, id: string): Promise<void> {
  await redis.publish(cancelChannel, id);
}
