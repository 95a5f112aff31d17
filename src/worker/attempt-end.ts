/** How an attempt ends that made no result, in BullMQ's words: back in the queue, tried again, or failed for good. */
import { DelayedError, UnrecoverableError, WaitingError } from 'bullmq';
import type { Logger } from 'pino';
import { type AppError, toAppError, toFailure } from '../errors.ts';
import type { UpscaleJob } from '../jobs/job-snapshot.ts';
import { metrics } from '../metrics.ts';
import { ModelAbsent } from './absent-model.ts';
import { HandBack } from './hand-back.ts';
import { jobFacts } from './job-facts.ts';

/** How a run ends whose job is no longer ours. */
export class LockLost extends Error {
  override readonly name = 'LockLost';
}

/** A full disk is not mended in a second. */
const storageRetryDelayMs = 30_000;

/**
 * @param error why there is no result
 * @returns what to throw, for BullMQ
 */
export async function endAttempt(
  error: unknown,
  job: UpscaleJob,
  token: string,
  logger: Logger,
): Promise<Error> {
  if (error instanceof HandBack) {
    metrics.jobAttemptsLost.inc({ reason: 'handed_back' });
    logger.info(jobFacts(job), 'job handed back to the queue');
    await job.moveToWait(token);
    return new WaitingError();
  }
  if (error instanceof ModelAbsent) return leaveToOthers(job, token, error, logger);
  if (error instanceof LockLost) {
    // BullMQ refuses whatever we say of the job now, and whoever has the lock ends it.
    metrics.jobAttemptsLost.inc({ reason: 'lock_lost' });
    return error;
  }
  const known = toAppError(error);
  const text = JSON.stringify(toFailure(known));
  logFailure(logger, job, known);
  // BullMQ reads it from the job when it puts the next attempt off.
  if (known.code === 'storage_unavailable') {
    job.opts.backoff = { type: 'fixed', delay: storageRetryDelayMs };
  }
  return known.retryable ? new Error(text) : new UnrecoverableError(text);
}

/** Behind all that wait with its priority, since nobody can say who takes it next. */
async function leaveToOthers(
  job: UpscaleJob,
  token: string,
  { delayMs }: ModelAbsent,
  logger: Logger,
): Promise<DelayedError> {
  metrics.jobAttemptsLost.inc({ reason: 'model_absent' });
  const facts = { ...jobFacts(job), model: job.data.params.model };
  // It may come up again every few seconds, for as long as the roll-out takes.
  const level = job.attemptsStarted > 1 ? 'debug' : 'info';
  logger[level](facts, 'job left to a worker that has its model');
  await job.moveToDelayed(Date.now() + delayMs, token);
  return new DelayedError();
}

function logFailure(logger: Logger, job: UpscaleJob, error: AppError): void {
  const facts = {
    ...jobFacts(job),
    attempt: job.attemptsMade + 1,
    code: error.code,
    detail: error.message,
  };
  // What the user caused is no incident of ours.
  if (error.status < 500) logger.info(facts, 'job ended without a result');
  else logger.error({ ...facts, err: error.cause }, 'an attempt of the job failed');
}
