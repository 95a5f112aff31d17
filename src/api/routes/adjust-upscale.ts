/** POST /upscale/{id}/adjust: the same image at other dials, from the latents and residuals that its job has kept. */
import { randomUUID } from 'node:crypto';
import Type from 'typebox';
import { upscaleQuerySchema } from '../../jobs/params.ts';
import { checkOutput, checkRoomAndModel } from '../admission.ts';
import { answerJob, jobResponses } from '../answer-job.ts';
import { planAnswer } from '../answer-plan.ts';
import { countedFor } from '../clients/client.ts';
import { findSource } from '../derived-job.ts';
import { mapsOf } from '../enter-job.ts';
import { jobParamsSchema } from '../find-job.ts';
import { inspectMaps } from '../inspect-maps.ts';
import { jobOptions, resolveJobOptions } from '../job-options.ts';
import { mapProperties } from '../map-properties.ts';
import { problemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';
import { readMaps } from '../upload.ts';

const { pix, sem, format, quality, colorfix, metadata } = upscaleQuerySchema.properties;
const querySchema = Type.Object(
  { pix, sem, format, quality, colorfix, metadata, ...jobOptions },
  { additionalProperties: false },
);

const schema = {
  operationId: 'adjustUpscale',
  tags: ['upscale'],
  summary: 'The same image at other dials',
  description: [
    'Makes a new job that only combines, decodes and encodes: what the encoder and the UNet gave is kept with the first job. A residual that it did not need is computed once, and kept too. What is not in the query is as in the job that is adjusted, except its strength maps: send them again.',
    '',
    'Answers as `POST /upscale` does. `410` once the image is no longer kept: send it again.',
  ].join('\n'),
  headers: {
    type: 'object',
    properties: {
      prefer: { type: 'string', description: 'wait=N, respond-async (RFC 7240).' },
    },
  },
  params: jobParamsSchema,
  querystring: querySchema,
  body: {
    content: {
      'multipart/form-data': {
        schema: { type: 'object', properties: mapProperties, additionalProperties: false },
      },
    },
  },
  response: {
    ...jobResponses,
    ...problemResponses(
      'job_not_found',
      'too_many_files',
      'not_acceptable',
      'upload_too_large',
      'unsupported_media_type',
      'corrupt_image',
      'animated_image',
      'job_not_finished',
      'job_has_no_result',
      'canceled',
      'input_expired',
      'result_expired',
      'too_many_pixels',
      'invalid_parameter',
      'url_not_allowed',
      'unknown_model',
      'unsupported_output',
      'queue_full',
      'redis_unavailable',
      'device_lost',
      'job_timeout',
    ),
  },
};

export function adjustUpscale(app: App, services: Services): void {
  app.post('/upscale/:id/adjust', { schema }, async (request, reply) => {
    const { config, queue } = services;
    const { query } = request;
    const plan = planAnswer(request, query.format, config.MAX_WAIT_SECONDS);
    const options = resolveJobOptions(query, config);
    const { job, data } = await findSource(services, request.params.id);
    const before = job.data.params;
    const params = {
      ...before,
      pix: query.pix ?? before.pix,
      sem: query.sem ?? before.sem,
      format: plan.format ?? query.format ?? before.format,
      quality: query.quality ?? before.quality,
      metadata: query.metadata ?? before.metadata,
      ...(query.colorfix ? { colorfix: query.colorfix } : {}),
    };
    await checkRoomAndModel(queue, params.model, config);
    checkOutput(data.input, params, config.MAX_OUTPUT_PIXELS);
    const maps = await readMaps(request, reply, config.MAX_UPLOAD_BYTES);
    await inspectMaps(maps, { maxPixels: config.MAX_INPUT_PIXELS });
    const id = randomUUID();
    const accepted = await queue.submit(
      id,
      { maps },
      {
        kind: 'adjust',
        ...data,
        ...mapsOf(id, { maps }),
        params,
        ...options,
        requestId: request.id,
      },
      { within: countedFor(request.client) },
    );
    return answerJob(services, reply, plan, accepted);
  });
}
