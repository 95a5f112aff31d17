/** Jobs that start from what another job has kept, instead of from an upload. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import { AppError, type ErrorCode } from '../errors.ts';
import type { UpscaleJobData } from '../jobs/job.ts';
import type { OutputFormat } from '../jobs/params.ts';
import { orUnavailable } from '../jobs/redis.ts';
import { checkRoomAndModel } from './admission.ts';
import { answerJob } from './answer-job.ts';
import { type AnswerPlan, planAnswer } from './answer-plan.ts';
import { enterJob, isRepeated } from './enter-job.ts';
import { findFinishedJob } from './find-job.ts';
import { type JobOptions, resolveJobOptions } from './job-options.ts';
import type { AskedJob } from './request-digest.ts';
import type { FinishedJob } from './result-headers.ts';
import type { Services } from './services.ts';
import type { Upload } from './upload.ts';
import type { UploadLoan } from './upload-budget.ts';

/** What every route that makes a job from another can answer. */
export const derivedJobProblems: readonly ErrorCode[] = [
  'job_not_found',
  'job_not_finished',
  'job_has_no_result',
  'canceled',
  'input_expired',
  'result_expired',
  'too_many_pixels',
  'invalid_parameter',
  'unknown_model',
  'queue_full',
  'redis_unavailable',
  'storage_unavailable',
  'device_lost',
  'model_too_large',
  'disk_full',
  'job_timeout',
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

/** A job whose upload is still kept. */
export interface Source {
  readonly job: FinishedJob;
  /** What the data of every job from this source begin with. */
  readonly data: Pick<UpscaleJobData, 'input' | 'client'> &
    Required<Pick<UpscaleJobData, 'source'>>;
}

/**
 * The source of a job that was made from a source itself is that source: nothing is kept twice.
 * @throws job_not_found | job_not_finished | job_has_no_result | canceled | redis_unavailable
 */
async function sourceOf({ queue }: Services, id: string): Promise<Source> {
  const job = await findFinishedJob(queue, id);
  const { input, client } = job.data;
  const source = job.data.source ?? { id, expiresAt: job.result.output.expiresAt };
  return { job, data: { input, source, ...(client === undefined ? {} : { client }) } };
}

/** @throws input_expired | redis_unavailable | storage_unavailable */
async function checkKept({ store }: Services, { input, source }: Source['data']): Promise<void> {
  const isKept = source.expiresAt > Date.now() && (await orUnavailable(() => store.has(input.key)));
  if (isKept) return;
  throw new AppError(
    'input_expired',
    'The image of this job is no longer kept: its time has passed, it gave way to newer ones (KEEP_MAX_MEGABYTES), or its job was deleted. Send it again, with these dials.',
  );
}

/** @throws what `sourceOf` and `checkKept` throw */
export async function findSource(services: Services, id: string): Promise<Source> {
  const source = await sourceOf(services, id);
  await checkKept(services, source.data);
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
  /** Of the job in the path. */
  id: string;
  query: JobOptions & { format?: OutputFormat };
  /** The format of the new job, where the request names none. Default: as in the job of the path. */
  usual?: OutputFormat;
  derive: (from: FinishedJob, plan: AnswerPlan) => Derivation;
}

/**
 * Answers a request for a job from a source, as `POST /upscale` does for one from an upload. A request that came
 * before, by its Idempotency-Key, gets its job even if the source has gone since.
 */
export async function answerDerived(
  services: Services,
  request: FastifyRequest,
  reply: FastifyReply,
  { id, query, usual, derive }: DerivedRequest,
): Promise<FastifyReply> {
  const { config, queue, uploadBudget } = services;
  const { job, data } = await sourceOf(services, id);
  const formats = { format: query.format, usual: usual ?? job.data.params.format };
  const plan = planAnswer(request, formats, config.MAX_WAIT_SECONDS);
  const options = resolveJobOptions(query, config, job.data);
  const { asked, check, readMaps } = derive(job, plan);
  if (!(await isRepeated(queue, request))) {
    await checkKept(services, data);
    await checkRoomAndModel(queue, asked.params.model, config);
  }
  check();
  const entered = await uploadBudget.lend(async (loan) =>
    enterJob(services, request, {
      uploads: { maps: readMaps ? await readMaps(loan) : {} },
      asked: { ...asked, source: data.source, ...options },
      input: data.input,
    }),
  );
  return answerJob(services, reply.headers(entered.headers), plan, entered.job);
}
