/** Jobs that start from what another job has kept, instead of from an upload. */
import { AppError } from '../errors.ts';
import type { UpscaleJobData } from '../jobs/job.ts';
import { orUnavailable } from '../jobs/redis.ts';
import { findFinishedJob } from './find-job.ts';
import type { FinishedJob } from './result-headers.ts';
import type { Services } from './services.ts';

/** A job whose upload is still kept. */
export interface Source {
  readonly job: FinishedJob;
  /** What the data of every job from this source begin with. */
  readonly data: Pick<UpscaleJobData, 'input' | 'client'> &
    Required<Pick<UpscaleJobData, 'source'>>;
}

/**
 * The source of a job that was made from a source itself is that source: nothing is kept twice.
 * @throws job_not_found | job_not_finished | job_has_no_result | canceled | input_expired | redis_unavailable
 */
export async function findSource({ queue, store }: Services, id: string): Promise<Source> {
  const job = await findFinishedJob(queue, id);
  const { input, client } = job.data;
  const source = job.data.source ?? { id, expiresAt: job.result.output.expiresAt };
  const kept = source.expiresAt > Date.now() && (await orUnavailable(() => store.has(input.key)));
  if (kept) return { job, data: { input, source, ...(client === undefined ? {} : { client }) } };
  throw new AppError(
    'input_expired',
    'The image of this job is no longer kept: its time has passed, it gave way to newer ones (KEEP_MAX_MEGABYTES), or its job was deleted. Send it again, with these dials.',
  );
}
