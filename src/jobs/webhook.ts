/**
 * The webhook of a job. Its delivery is a job of its own queue and, in BullMQ's terms, the parent of the upscale
 * job: Redis lets it go in the same step in which the upscale job completes, fails or is removed, so there is no
 * moment at which a killed process could lose it. Delivering is `src/webhooks`.
 */
import type { Job, Queue } from 'bullmq';
import { AppError, type Failure, toFailure } from '../errors.ts';
import type { UpscaleJobData } from './job.ts';
import type { JobSnapshot } from './job-snapshot.ts';

export const webhookQueueName = 'webhooks';

/** In the data of an upscale job. */
export interface Webhook {
  url: string;
  /** How often delivery is tried in all. */
  attempts: number;
}

/** What a failed attempt leaves in the record. Times are epoch milliseconds. */
interface FailedAttempt {
  at: number;
  /** HTTP status. Absent when there was no answer. */
  status?: number;
  fault: string;
  /** Absent after the last one. */
  nextAt?: number;
}

/** BullMQ data of a delivery. Its id is that of the upscale job. */
export interface DeliveryData {
  url: string;
  /** Whose job it is. Absent in deliveries of older versions. */
  client?: string;
  /**
   * The job as it ended, so that every attempt says the same: from the first attempt on, or from the start where it had
   * ended before.
   */
  ended?: EndedJob;
  lastFailure?: FailedAttempt;
}

/** BullMQ return value of a delivery. */
export interface DeliveryResult {
  at: number;
  status: number;
}

export type DeliveryJob = Job<DeliveryData, DeliveryResult>;
export type DeliveryQueue = Queue<DeliveryData, DeliveryResult>;

/** A snapshot that survives JSON. */
type EndedJob = Omit<JobSnapshot, 'error' | 'webhook'> & { error?: Failure };

export const endedJob = ({ error, webhook: _, ...job }: JobSnapshot): EndedJob => ({
  ...job,
  ...(error ? { error: toFailure(error) } : {}),
});

export const fromEndedJob = ({ error, ...job }: EndedJob): JobSnapshot => ({
  ...job,
  ...(error ? { error: new AppError(error.code, error.detail) } : {}),
});

/** Writes into the delivery how the job ended, once: the first word stands. */
export async function recordEnd(delivery: DeliveryJob, job: JobSnapshot): Promise<void> {
  if (delivery.data.ended) return;
  await delivery.updateData({ ...delivery.data, ended: endedJob(job) });
}

export const deliveryStatuses = ['pending', 'delivered', 'failed'] as const;

/** The delivery as the job object tells of it. */
export interface DeliveryState {
  url: string;
  status: (typeof deliveryStatuses)[number];
  /** Attempts that have ended. */
  attempts: number;
  lastAttemptAt?: number;
  /** HTTP status of the last attempt. Absent when it got no answer. */
  lastStatus?: number;
  /** Why the last attempt failed. */
  lastFault?: string;
  /** When it will be tried again. */
  nextAttemptAt?: number;
}

/** The data that a delivery begins with. */
export const deliveryData = (
  { url }: Webhook,
  { client }: Pick<UpscaleJobData, 'client'>,
): DeliveryData => ({ url, ...(client === undefined ? {} : { client }) });

export const newDelivery = ({ url }: Webhook): DeliveryState => ({
  url,
  status: 'pending',
  attempts: 0,
});

/** @param delivery undefined: not there (any more) */
export function stateOfDelivery(
  { url }: Webhook,
  delivery: DeliveryJob | undefined,
): DeliveryState | undefined {
  if (!delivery) return undefined;
  const { attemptsMade: attempts, finishedOn, returnvalue } = delivery;
  if (finishedOn && returnvalue) {
    const { at, status } = returnvalue;
    return { url, status: 'delivered', attempts, lastAttemptAt: at, lastStatus: status };
  }
  const { lastFailure } = delivery.data;
  return {
    url,
    status: finishedOn ? 'failed' : 'pending',
    attempts,
    ...(lastFailure ? stateOfFailure(lastFailure) : {}),
  };
}

const stateOfFailure = ({ at, status, fault, nextAt }: FailedAttempt) => ({
  lastAttemptAt: at,
  lastFault: fault,
  ...(status === undefined ? {} : { lastStatus: status }),
  ...(nextAt === undefined ? {} : { nextAttemptAt: nextAt }),
});
