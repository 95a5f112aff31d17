/** POST /upscale/{id}/adjust: the same image at other dials, from the latents and residuals that its job has kept. */
import Type from 'typebox';
import { checkOutput } from '../../jobs/output-size.ts';
import { upscaleQuerySchema } from '../../jobs/params.ts';
import { jobResponses } from '../answer-job.ts';
import { answerDerived, answerDerivedProblems } from '../derived-job.ts';
import { jobHeaderSchema } from '../enter-job.ts';
import { jobParamsSchema } from '../find-job.ts';
import { inspectMaps } from '../inspect-maps.ts';
import { asInSource, derivedJobOptions } from '../job-options.ts';
import { mapProperties } from '../map-properties.ts';
import { problemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';
import { readMaps } from '../upload.ts';
import { whileConnected } from '../while-connected.ts';

const { pix, sem, format, quality, colorfix, metadata } = upscaleQuerySchema.properties;
const querySchema = Type.Object(
  {
    pix: asInSource(pix),
    sem: asInSource(sem),
    format: asInSource(format),
    quality: asInSource(quality),
    colorfix: asInSource(colorfix),
    metadata: asInSource(metadata),
    ...derivedJobOptions,
  },
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
  headers: { type: 'object', properties: jobHeaderSchema },
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
      ...answerDerivedProblems,
      // Of the maps.
      'too_many_files',
      'upload_too_large',
      'too_many_uploads',
      'unsupported_media_type',
      'corrupt_image',
      'animated_image',
    ),
  },
};

export function adjustUpscale(app: App, services: Services): void {
  const { MAX_OUTPUT_PIXELS, MAX_UPLOAD_BYTES, MAX_INPUT_PIXELS } = services.config;
  app.post('/upscale/:id/adjust', { schema }, (request, reply) => {
    const { query } = request;
    return answerDerived(services, request, reply, {
      query,
      derive: ({ data }, plan) => {
        const before = data.params;
        const params = {
          ...before,
          pix: query.pix ?? before.pix,
          sem: query.sem ?? before.sem,
          format: plan.format ?? query.format ?? before.format,
          quality: query.quality ?? before.quality,
          metadata: query.metadata ?? before.metadata,
          ...(query.colorfix ? { colorfix: query.colorfix } : {}),
        };
        return {
          asked: { kind: 'adjust', params },
          check: () => checkOutput(data.input, params, MAX_OUTPUT_PIXELS),
          readMaps: async (loan) => {
            const maps = await readMaps(request, reply, { maxBytes: MAX_UPLOAD_BYTES, loan });
            const limits = { maxPixels: MAX_INPUT_PIXELS };
            await whileConnected(reply.raw, (signal) => inspectMaps(maps, limits, signal));
            return maps;
          },
        };
      },
    });
  });
}
