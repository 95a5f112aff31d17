/** POST /upscale: an image and two dials in; a job, or the finished image, out. */
import type { FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { inspectImage } from '../../images/inspect-image.ts';
import { checkOutput, type PixelSize } from '../../jobs/output-size.ts';
import { resolveParams, upscaleDefaults, upscaleQuerySchema } from '../../jobs/params.ts';
import { maxUrlLength } from '../../net/checked-url.ts';
import { checkRoomAndModel } from '../admission.ts';
import { answerJob, checkAnswer, jobResponses } from '../answer-job.ts';
import { planAnswer } from '../answer-plan.ts';
import {
  cacheHeaderSchema,
  type EnteredJob,
  enterJob,
  isRepeated,
  jobHeaderSchema,
} from '../enter-job.ts';
import { fileProperty, imageBytes } from '../image-content.ts';
import { inspectMaps } from '../inspect-maps.ts';
import { jobOptions, resolveJobOptions } from '../job-options.ts';
import { mapProperties } from '../map-properties.ts';
import { jobProblems, problemResponses } from '../problem-schema.ts';
import type { AskedJob } from '../request-digest.ts';
import type { App, Services } from '../services.ts';
import { readUpload } from '../upload.ts';
import { whileConnected } from '../while-connected.ts';

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
    properties: { ...jobHeaderSchema, ...cacheHeaderSchema },
  },
  querystring: querySchema,
  body: {
    content: {
      'multipart/form-data': {
        schema: {
          type: 'object',
          required: ['image'],
          properties: {
            image: fileProperty(),
            ...mapProperties,
          },
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
    ...jobResponses,
    ...problemResponses(
      'missing_image',
      'too_many_files',
      'not_acceptable',
      'upload_too_large',
      'unsupported_media_type',
      'corrupt_image',
      'animated_image',
      'url_not_allowed',
      'image_url_failed',
      'image_url_unavailable',
      'unsupported_output',
      'idempotency_key_reused',
      'too_many_fetches',
      'too_many_uploads',
      ...jobProblems,
    ),
  },
};

export function createUpscale(app: App, services: Services): void {
  app.post('/upscale', { schema }, async (request, reply) => {
    const { config } = services;
    const plan = planAnswer(
      request,
      { format: request.query.format, usual: upscaleDefaults.format },
      config.MAX_WAIT_SECONDS,
    );
    checkAnswer(services, request.client, plan);
    const params = resolveParams(
      { ...request.query, ...(plan.format ? { format: plan.format } : {}) },
      config.MODEL,
    );
    const options = resolveJobOptions(request.query, config);
    const { job, headers } = await accept(services, request, reply, { params, ...options });
    reply.headers(headers);
    return answerJob(services, reply, plan, job);
  });
}

/** Everything from the request to its job. */
async function accept(
  services: Services,
  request: FastifyRequest,
  reply: FastifyReply,
  asked: AskedJob,
): Promise<EnteredJob> {
  const { config, queue, imageFetches, uploadBudget } = services;
  const { params } = asked;
  if (!(await isRepeated(queue, request))) await checkRoomAndModel(queue, params.model, config);
  // The upload is garbage once this has ended.
  return uploadBudget.lend(request.client, async (loan) => {
    const uploads = await readUpload(request, reply, {
      maxBytes: config.MAX_UPLOAD_BYTES,
      loan,
      fetchImage: imageFetches.for(reply, loan),
    });
    const limits = { maxPixels: config.MAX_INPUT_PIXELS };
    const admitSize = (size: PixelSize) => checkOutput(size, params, config.MAX_OUTPUT_PIXELS);
    const { width, height, contentType } = await whileConnected(reply.raw, async (signal) => {
      const inspected = await inspectImage(uploads.image, { ...limits, admitSize }, signal);
      await inspectMaps(uploads.maps, limits, signal);
      return inspected;
    });
    const input = { width, height, bytes: uploads.image.length, content_type: contentType };
    return enterJob(services, request, { uploads, asked, input });
  });
}
