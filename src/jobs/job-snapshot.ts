/** One job as it stands, in our words: what the api turns into the job object. */
import type { Job } from 'bullmq';
import { AppError, fromFailureText } from '../errors.ts';
import type { CancelRecord } from './cancellation.ts';
import type { Progress, UpscaleJobData, UpscaleJobResult } from './job.ts';
import type { ReuseRecord } from './stored-results.ts';
import type { DeliveryState } from './webhook.ts';

export const jobStatuses = ['queued', 'processing', 'succeeded', 'failed', 'canceled'] as const;
export type JobStatus = (typeof jobStatuses)[number];

/** Times are epoch milliseconds. */
export interface JobSnapshot {
  id: string;
  status: JobStatus;
  data: UpscaleJobData;
  createdAt: number;
  /** Start of the last attempt. Absent while queued. */
  startedAt?: number;
  /** Absent until the status is final. */
  completedAt?: number;
  /** Present while processing, as soon as the device reports any. */
  progress?: Progress;
  /** Jobs that are ahead in the queue; 0 = next. Absent unless queued. */
  queuePosition?: number;
  /** Answered from the stored result of another job. */
  reused?: true;
  /** Present when succeeded. */
  result?: UpscaleJobResult;
  /** Present when failed or canceled. */
  error?: AppError;
  /** Present when the job has a webhook whose delivery is still on record. */
  webhook?: DeliveryState;
}

export type UpscaleJob = Job<UpscaleJobData, UpscaleJobResult>;

export const isFinal = (status: JobStatus): boolean =>
  status === 'succeeded' || status === 'failed' || status === 'canceled';

/**
 * @param state BullMQ's state, read before `job` was, so that a job that finished in between is seen by its
 *   own `finishedOn`
 */
export function snapshotOfJob(job: UpscaleJob, state: string): JobSnapshot {
  const base = { id: job.id ?? '', data: job.data, createdAt: job.timestamp };
  const started = job.processedOn === undefined ? {} : { startedAt: job.processedOn };
  if (job.finishedOn !== undefined && job.finishedOn !== null) {
    const ended = { ...base, ...started, completedAt: job.finishedOn };
    if (job.returnvalue) return { ...ended, status: 'succeeded', result: job.returnvalue };
    const error = fromFailureText(job.failedReason ?? '');
    return { ...ended, status: error.code === 'canceled' ? 'canceled' : 'failed', error };
  }
  if (state === 'active') {
    const progress = job.progress as Progress | number;
    return {
      ...base,
      ...started,
      status: 'processing',
      ...(typeof progress === 'object' ? { progress } : {}),
    };
  }
  return { ...base, status: 'queued' };
}

export function snapshotOfCancelRecord(id: string, record: CancelRecord): JobSnapshot {
  return {
    id,
    status: 'canceled',
    data: record.data,
    createdAt: record.createdAt,
    ...(record.startedAt === undefined ? {} : { startedAt: record.startedAt }),
    completedAt: record.canceledAt,
    error: canceledError(),
  };
}

export function snapshotOfReuseRecord(id: string, record: ReuseRecord): JobSnapshot {
  const { data, createdAt, result } = record;
  const times = { createdAt, startedAt: createdAt, completedAt: createdAt };
  return { id, status: 'succeeded', data, ...times, reused: true, result };
}

export const canceledError = (): AppError =>
  new AppError('canceled', 'The job was canceled on request.');
