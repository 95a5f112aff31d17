/** Jobs that start from what another job has kept, instead of from an upload. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { AppError, type ErrorCode } from '../errors.ts';
import type { UpscaleJobData } from '../jobs/job.ts';
import type { JobSnapshot } from '../jobs/job-snapshot.ts';
import type { OutputFormat } from '../jobs/params.ts';
import type { UpscaleQueue } from '../jobs/queue.ts';
import { orUnavailable } from '../jobs/redis-faults.ts';
import { checkRoomAndModel } from './admission.ts';
import { answerJob, checkAnswer } from './answer-job.ts';
import { type AnswerPlan, planAnswer } from './answer-plan.ts';
import { enterJob, findRepeated, isRepeated } from './enter-job.ts';
import { findFinishedJob, type JobRequest } from './find-job.ts';
import { type JobOptions, resolveJobOptions } from './job-options.ts';
import { jobProblems } from './problem-schema.ts';
import type { AskedJob } from './request-digest.ts';
import type { FinishedJob } from './result-headers.ts';
import type { Services } from './services.ts';
import type { Upload } from './upload.ts';
import type { UploadLoan } from './upload-budget.ts';

/** What every route that makes a job from another can answer. */
export const derivedJobProblems: readonly ErrorCode[] = [
  'job_not_finished',
  'job_has_no_result',
  ...jobProblems,
];

/** What the routes that answer as `POST /upscale` does can answer besides. */
export const answerDerivedProblems: readonly ErrorCode[] = [
  ...derivedJobProblems,
  'not_acceptable',
  'unsupported_output',
  // Of the webhook.
  'url_not_allowed',
  'idempotency_key_reused',
];

/** A job whose upload may still be kept. */
export interface Source {
  readonly job: Pick<JobSnapshot, 'data'>;
  /** What the data of every job from this source begin with. */
  readonly data: Pick<UpscaleJobData, 'input' | 'client'> &
    Required<Pick<UpscaleJobData, 'source'>>;
}

/** The source of a job that was made from a source itself is that source: nothing is kept twice. */
function sourceOf(job: FinishedJob): Source {
  const source = job.data.source ?? { id: job.id, expiresAt: job.result.output.expiresAt };
  return from(job, source);
}

function from(job: Source['job'], source: Source['data']['source']): Source {
  const { input, client } = job.data;
  return { job, data: { input, source, ...(client === undefined ? {} : { client }) } };
}

/**
 * What the job in the path is made from. Where that has been deleted, the job that the same request made before says as
 * well what it was made from, and what the request left as it was.
 * @throws what `findFinishedJob` throws
 */
async function findOrigin(
  queue: UpscaleQueue,
  request: FastifyRequest & JobRequest,
): Promise<Source> {
  try {
    return sourceOf(await findFinishedJob(queue, request));
  } catch (error) {
    const isGone = error instanceof AppError && error.code === 'job_not_found';
    const made = isGone ? await findRepeated(queue, request) : undefined;
    if (!made?.data.source) throw error;
    return from(made, made.data.source);
  }
}

/** @throws redis_unavailable | storage_unavailable */
const isKept = async ({ store }: Services, { input, source }: Source['data']): Promise<boolean> =>
  source.expiresAt > Date.now() && (await orUnavailable(() => store.has(input.key)));

const inputExpired = (): AppError =>
  new AppError(
    'input_expired',
    'The image of this job is no longer kept: its time has passed, it gave way to newer ones (KEEP_MAX_MEGABYTES), or its job was deleted. Send it again, with these dials.',
  );

/** @throws input_expired | redis_unavailable | storage_unavailable */
export async function findSource(services: Services, job: FinishedJob): Promise<Source> {
  const source = sourceOf(job);
  if (!(await isKept(services, source.data))) throw inputExpired();
  return source;
}

/** What is made of the source. */
interface Derivation {
  asked: Pick<AskedJob, 'kind' | 'params' | 'sweep'>;
  /** @throws too_many_pixels | unsupported_output */
  check: () => void;
  /** Called last: reads the body. Absent: there are none. */
  readMaps?: (loan: UploadLoan) => Promise<Upload['maps']>;
}

interface DerivedRequest {
  query: JobOptions & { format?: OutputFormat };
  /** The format of the new job, where the request names none. Default: as in the job of the path. */
  usual?: OutputFormat;
  derive: (from: Source['job'], plan: AnswerPlan) => Derivation;
}

/**
 * Answers a request for a job from a source, as `POST /upscale` does for one from an upload. A request that came
 * before, by its Idempotency-Key, gets its job even if the source has gone since.
 */
export async function answerDerived(
  services: Services,
  request: FastifyRequest & JobRequest,
  reply: FastifyReply,
  { query, usual, derive }: DerivedRequest,
): Promise<FastifyReply> {
  const { config, queue, uploadBudget } = services;
  const { job, data } = await findOrigin(queue, request);
  const formats = { format: query.format, usual: usual ?? job.data.params.format };
  const plan = planAnswer(request, formats, config.MAX_WAIT_SECONDS);
  checkAnswer(services, request.client, plan);
  const options = resolveJobOptions(query, config, job.data);
  const { asked, check, readMaps } = derive(job, plan);
  let canBeNew = true;
  if (!(await isRepeated(queue, request))) {
    canBeNew = await isKept(services, data);
    // The job that it made before has failed: where another cannot be made, that stays the answer.
    if (!canBeNew && !(await findRepeated(queue, request))) throw inputExpired();
    if (canBeNew) await checkRoomAndModel(queue, asked.params.model, config);
  }
  check();
  const entered = await uploadBudget.lend(request.client, async (loan) =>
    enterJob(services, request, {
      uploads: { maps: readMaps ? await readMaps(loan) : {} },
      asked: { ...asked, source: data.source, ...options },
      input: data.input,
      canBeNew,
    }),
  );
  return answerJob(services, reply.headers(entered.headers), plan, entered.job);
}
