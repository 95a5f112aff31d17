/** A job by the id in the path. */
import type { FastifyRequest } from 'fastify';
import Type from 'typebox';
import { AppError } from '../errors.ts';
import type { JobSnapshot } from '../jobs/job-snapshot.ts';
import type { UpscaleQueue } from '../jobs/queue.ts';
import { type FinishedJob, isSucceeded } from './result-headers.ts';
import type { App } from './services.ts';

/** An id of another form is no job's: 404, like any id that we do not know. */
export const jobParamsSchema = Type.Object(
  {
    id: Type.String({
      pattern: '^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$',
      description: 'The id of a job.',
    }),
  },
  { additionalProperties: false },
);

/** Ids are kept in lower case, and a UUID is the same in upper case (RFC 9562, section 4). */
export function registerJobIds(app: App): void {
  app.addHook('preValidation', async ({ params }) => {
    const named = params as { id?: string } | undefined;
    if (named?.id !== undefined) named.id = named.id.toLowerCase();
  });
}

/** For routes that take no parameter in the query. */
export const noQuerySchema = Type.Object({}, { additionalProperties: false });

export const jobNotFound = (id: string): AppError =>
  new AppError(
    'job_not_found',
    `There is no job ${id}. It was deleted, or its time to live has passed.`,
  );

/** A request that names a job in its path. */
export type JobRequest = Pick<FastifyRequest, 'ownJob'> & { params: { id: string } };

/** @throws job_not_found | job_not_finished | job_has_no_result | canceled | redis_unavailable */
export async function findFinishedJob(
  queue: UpscaleQueue,
  request: JobRequest,
): Promise<FinishedJob> {
  const job = await findJob(queue, request);
  if (isSucceeded(job)) return job;
  if (job.status === 'canceled') {
    throw new AppError('canceled', 'The job was canceled: there is no result.');
  }
  if (job.status === 'failed') {
    throw new AppError(
      'job_has_no_result',
      `The job failed (${job.error?.code}): ${job.error?.message}`,
    );
  }
  throw new AppError(
    'job_not_finished',
    `The job is ${job.status}. Ask again later, or send the image with "Prefer: wait=N".`,
    { retryAfterSeconds: 1 },
  );
}

/**
 * Whose job it is has been checked by then (clients/register-clients.ts), and what was found for that will do.
 * @throws job_not_found | redis_unavailable
 */
export async function findJob(
  queue: UpscaleQueue,
  { ownJob, params }: JobRequest,
): Promise<JobSnapshot> {
  const job = ownJob === undefined ? await queue.get(params.id) : ownJob;
  if (!job) throw jobNotFound(params.id);
  return job;
}
