/** POST /upscale: an image and two dials in; a job, or the finished image, out. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { AppError } from '../../errors.ts';
import { inspectImage } from '../../images/inspect-image.ts';
import { isFinal, type JobSnapshot } from '../../jobs/job-snapshot.ts';
import { contentTypeOf, resolveParams, upscaleQuerySchema } from '../../jobs/params.ts';
import { maxUrlLength } from '../../net/checked-url.ts';
import { checkOutput, checkRoomAndModel } from '../admission.ts';
import { type AnswerPlan, planAnswer } from '../answer-plan.ts';
import {
  type EnteredJob,
  enteredHeaderSchemas,
  enterJob,
  idempotencyHeaderSchema,
  isRepeated,
} from '../enter-job.ts';
import { jobUrl, toJobObject } from '../job-object.ts';
import { jobOptions, resolveJobOptions } from '../job-options.ts';
import { problemResponses } from '../problem-schema.ts';
import { sendProblem } from '../problems.ts';
import { readResult } from '../read-result.ts';
import type { AskedJob } from '../request-digest.ts';
import { isSucceeded, resultHeaderSchemas, resultHeaders } from '../result-headers.ts';
import type { App, Services } from '../services.ts';
import { readUpload } from '../upload.ts';
import { imageFetcher } from '../upload-url.ts';

const imageBytes = { schema: { type: 'string', format: 'binary' } };
const jobContent = { 'application/json': { schema: { $ref: 'Job#' } } };
const jobHeaders = {
  Location: { type: 'string', description: 'The job.' },
  'X-Job-Id': { type: 'string', format: 'uuid' },
  'Preference-Applied': { type: 'string', description: 'What of Prefer was obeyed.' },
  ...enteredHeaderSchemas,
};

const querySchema = Type.Object(
  { ...upscaleQuerySchema.properties, ...jobOptions },
  { additionalProperties: false },
);

const schema = {
  operationId: 'createUpscale',
  tags: ['upscale'],
  summary: 'Upscale an image',
  description: [
    'Answers `202` and the job at once, unless asked otherwise:',
    '- `Prefer: wait=N` waits up to N seconds (capped by MAX_WAIT_SECONDS): `200` and the job if it has ended by then, else `202`. `Preference-Applied` tells how long the wait could be.',
    '- `Accept: image/*` waits and answers `200` and the image; a concrete type, such as `Accept: image/webp`, is the output format too. `202` and the job when time runs out. A job that fails answers its problem, with its status.',
    '',
    'A client that goes away while it waits does not stop the job: `DELETE /upscale/{id}` does.',
    'What the bytes are decides, not the type that the request names for them: PNG, JPEG, WebP, AVIF or TIFF, one frame or page.',
  ].join('\n'),
  headers: {
    type: 'object',
    properties: {
      prefer: { type: 'string', description: 'wait=N, respond-async (RFC 7240).' },
      ...idempotencyHeaderSchema,
    },
  },
  querystring: querySchema,
  body: {
    content: {
      'multipart/form-data': {
        schema: {
          type: 'object',
          required: ['image'],
          properties: { image: { type: 'string', format: 'binary' } },
          additionalProperties: false,
        },
      },
      'image/*': imageBytes,
      'application/json': {
        schema: {
          type: 'object',
          required: ['image_url'],
          properties: {
            image_url: {
              type: 'string',
              format: 'uri',
              maxLength: maxUrlLength,
              description:
                'http or https, at a public address, or at a host of IMAGE_URL_ALLOWED_HOSTS. At most three redirects are followed.',
            },
          },
          additionalProperties: false,
        },
      },
    },
  },
  response: {
    200: {
      description: 'The job has ended: the job object, or the image.',
      headers: { ...jobHeaders, ...resultHeaderSchemas },
      content: {
        ...jobContent,
        ...Object.fromEntries(Object.values(contentTypeOf).map((type) => [type, imageBytes])),
      },
    },
    202: {
      description: 'The job is accepted and has not ended.',
      headers: jobHeaders,
      content: jobContent,
    },
    ...problemResponses(
      'missing_image',
      'too_many_files',
      'not_acceptable',
      'upload_too_large',
      'too_many_pixels',
      'unsupported_media_type',
      'invalid_parameter',
      'corrupt_image',
      'animated_image',
      'unknown_model',
      'url_not_allowed',
      'image_url_failed',
      'unsupported_output',
      'idempotency_key_reused',
      'queue_full',
      'redis_unavailable',
      // Of a job that failed, was canceled, deleted or outlived while the request waited for its image.
      'job_not_found',
      'canceled',
      'input_expired',
      'result_expired',
      'device_lost',
      'job_timeout',
    ),
  },
};

export function createUpscale(app: App, services: Services): void {
  app.post('/upscale', { schema }, async (request, reply) => {
    const { config, queue } = services;
    const plan = planAnswer(request, request.query.format, config.MAX_WAIT_SECONDS);
    const params = resolveParams(
      { ...request.query, ...(plan.format ? { format: plan.format } : {}) },
      config.MODEL,
    );
    const options = resolveJobOptions(request.query, config);
    const entered = await accept(services, request, reply, { params, ...options });
    const accepted = entered.job;
    // From here on the job exists: the client learns its id, whatever the answer will be.
    reply.headers({
      location: jobUrl(accepted.id),
      'x-job-id': accepted.id,
      vary: 'accept, prefer',
      'cache-control': 'no-store',
      ...entered.headers,
    });
    if (plan.preferenceApplied) reply.header('preference-applied', plan.preferenceApplied);
    if (plan.waitMs === 0) return answer(services, reply, plan, accepted);
    const job = await queue.waitFor(accepted.id, plan.waitMs, endOfWait(reply, services.closing));
    if (!job) {
      throw new AppError('job_not_found', 'The job was deleted while this request waited for it.');
    }
    return answer(services, reply, plan, job);
  });
}

/** Everything from the request to its job. The upload is garbage once this returns. */
async function accept(
  services: Services,
  request: FastifyRequest,
  reply: FastifyReply,
  asked: AskedJob,
): Promise<EnteredJob> {
  const { config, queue, imagePolicy } = services;
  const { params } = asked;
  if (!(await isRepeated(queue, request))) await checkRoomAndModel(queue, params.model, config);
  const image = await readUpload(request, reply, {
    maxBytes: config.MAX_UPLOAD_BYTES,
    fetchImage: imageFetcher(config, imagePolicy, reply),
  });
  const { width, height, contentType } = await inspectImage(image, {
    maxPixels: config.MAX_INPUT_PIXELS,
  });
  checkOutput({ width, height }, params, config.MAX_OUTPUT_PIXELS);
  const input = { width, height, bytes: image.length, content_type: contentType };
  return enterJob(services, request, image, asked, input);
}

/** Aborts when there is nobody left to wait for, or no more time to wait in. */
function endOfWait(reply: FastifyReply, closing: AbortSignal): AbortSignal {
  const end = new AbortController();
  const abort = (): void => end.abort();
  // By hand, not AbortSignal.any: `closing` lives as long as the service and must not collect listeners.
  closing.addEventListener('abort', abort, { once: true });
  reply.raw.once('close', () => {
    closing.removeEventListener('abort', abort);
    abort();
  });
  if (closing.aborted) abort();
  return end.signal;
}

async function answer(
  { store }: Services,
  reply: FastifyReply,
  plan: AnswerPlan,
  job: JobSnapshot,
): Promise<FastifyReply> {
  if (plan.kind === 'image' && isSucceeded(job)) {
    const bytes = await readResult(store, job);
    return reply.code(200).headers(resultHeaders(job)).send(bytes);
  }
  // The worker has logged it; here it is an answer like any other.
  if (plan.kind === 'image' && job.error) return sendProblem(reply, job.error);
  return reply.code(isFinal(job.status) ? 200 : 202).send(toJobObject(job));
}
