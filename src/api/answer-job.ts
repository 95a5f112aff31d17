/** How a request that made a job is answered: at once, or after a wait, with the job or with its image. */
import type { FastifyReply } from 'fastify';
import { AppError } from '../errors.ts';
import { isFinal, type JobSnapshot } from '../jobs/job-snapshot.ts';
import type { AnswerPlan } from './answer-plan.ts';
import type { Client } from './clients/client.ts';
import { enteredHeaderSchemas } from './enter-job.ts';
import { imageContent } from './image-content.ts';
import { jobUrl, toJobObject } from './job-object.ts';
import { sendProblem } from './problems.ts';
import { isSucceeded, resultHeaderSchemas } from './result-headers.ts';
import { sendResult } from './send-result.ts';
import type { Services } from './services.ts';
import { whenClosed } from './when-closed.ts';

/** How often to ask how a job stands, where neither a wait, the events nor a webhook tells. */
const pollSeconds = 1;

const jobContent = { 'application/json': { schema: { $ref: 'Job#' } } };
const jobHeaders = {
  Location: { type: 'string', description: 'The job.' },
  'X-Job-Id': { type: 'string', format: 'uuid' },
  'Preference-Applied': { type: 'string', description: 'What of Prefer was obeyed.' },
  ...enteredHeaderSchemas,
};

/** What OpenAPI says of the answers below. */
export const jobResponses = {
  200: {
    description: 'The job has ended: the job object, or the image.',
    headers: { ...jobHeaders, ...resultHeaderSchemas },
    content: { ...jobContent, ...imageContent },
  },
  202: {
    description: 'The job is accepted and has not ended.',
    headers: {
      ...jobHeaders,
      'Retry-After': { type: 'integer', description: 'Seconds, until `Location` is asked.' },
    },
    content: jobContent,
  },
};

/**
 * Called before the work: who could not be sent the image asks again, and has it made again.
 * @throws too_much_at_once
 */
export function checkAnswer(
  { results }: Pick<Services, 'results'>,
  client: Client,
  { kind }: AnswerPlan,
): void {
  if (kind === 'image') results.check(client, 1);
}

/** @param accepted the job as it stood when it was accepted */
export async function answerJob(
  services: Services,
  reply: FastifyReply,
  plan: AnswerPlan,
  accepted: JobSnapshot,
): Promise<FastifyReply> {
  // From here on the job exists: the client learns its id, whatever the answer will be.
  reply.headers({
    location: jobUrl(accepted.id),
    'x-job-id': accepted.id,
    vary: 'accept, prefer',
    'cache-control': 'no-store',
  });
  if (plan.preferenceApplied) reply.header('preference-applied', plan.preferenceApplied);
  if (plan.waitMs === 0) return answer(services, reply, plan, accepted);
  const job = await waitForEnd(services, reply, accepted, plan.waitMs);
  return answer(services, reply, plan, job);
}

/** @throws job_not_found when it was deleted meanwhile */
export async function waitForEnd(
  { queue, closing }: Services,
  reply: FastifyReply,
  accepted: JobSnapshot,
  waitMs: number,
): Promise<JobSnapshot> {
  const job = await queue.waitFor(accepted, waitMs, endOfWait(reply, closing));
  if (job) return job;
  throw new AppError('job_not_found', 'The job was deleted while this request waited for it.');
}

/** Aborts when there is nobody left to wait for, or no more time to wait in. */
function endOfWait(reply: FastifyReply, closing: AbortSignal): AbortSignal {
  const end = new AbortController();
  const abort = (): void => end.abort();
  // By hand, not AbortSignal.any: `closing` lives as long as the service and must not collect listeners.
  closing.addEventListener('abort', abort, { once: true });
  whenClosed(reply.raw, () => {
    closing.removeEventListener('abort', abort);
    abort();
  });
  if (closing.aborted) abort();
  return end.signal;
}

async function answer(
  services: Services,
  reply: FastifyReply,
  plan: AnswerPlan,
  job: JobSnapshot,
): Promise<FastifyReply> {
  if (plan.kind === 'image' && isSucceeded(job)) return sendResult(services, reply, job);
  // The worker has logged it; here it is an answer like any other.
  if (plan.kind === 'image' && job.error) return sendProblem(reply, job.error);
  if (!isFinal(job.status)) reply.code(202).header('retry-after', String(pollSeconds));
  return reply.send(toJobObject(job));
}
