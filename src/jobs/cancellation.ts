/**
 * Canceling across processes. A record per canceled job is at once the flag that the supervisor obeys and
 * the tombstone from which `GET /upscale/{id}` still answers `canceled`; a publish makes it immediate. The
 * record wins over whatever BullMQ says of the job, so a job that was canceled never reads as anything else.
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

/**
 * Also into a Redis whose memory is full: what is canceled frees more than this takes. Redis holds a script up only at its
 * first write, and a deletion takes no memory. ARGV: the record, its seconds to live.
 */
const recordScript = `
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])`;

export async function recordCancel(
  redis: Redis,
  id: string,
  record: CancelRecord,
  ttlSeconds: number,
): Promise<void> {
  await redis.eval(recordScript, 1, cancelRecords.prefix + id, JSON.stringify(record), ttlSeconds);
}

/** Tells every supervisor; the one that runs the job acts. */
export async function publishCancel(redis: Redis, id: string): Promise<void> {
  await redis.publish(cancelChannel, id);
}
