/** GET /upscale/{id}/result: the image of a job that has succeeded. */
import { findFinishedJob, jobParamsSchema, noQuerySchema } from '../find-job.ts';
import { imageContent } from '../image-content.ts';
import { problemResponses } from '../problem-schema.ts';
import { ifNoneMatchSchema, resultHeaderSchemas } from '../result-headers.ts';
import { sendUnlessHeld } from '../send-result.ts';
import type { App, Services } from '../services.ts';

const schema = {
  operationId: 'getUpscaleResult',
  tags: ['upscale'],
  summary: 'The image of a job',
  description: 'Never changes: cache it until it expires. HEAD works too.',
  params: jobParamsSchema,
  querystring: noQuerySchema,
  headers: { type: 'object', properties: ifNoneMatchSchema },
  response: {
    200: {
      description: 'The image.',
      headers: { ...resultHeaderSchemas, 'Cache-Control': { type: 'string' } },
      content: imageContent,
    },
    304: { description: 'The image that you have is the one.', type: 'null' },
    ...problemResponses(
      'job_not_found',
      'job_not_finished',
      'job_has_no_result',
      'canceled',
      'result_expired',
      'invalid_parameter',
      'too_much_at_once',
      'redis_unavailable',
      'storage_unavailable',
    ),
  },
};

export function getUpscaleResult(app: App, services: Services): void {
  app.get('/upscale/:id/result', { schema }, async (request, reply) => {
    const job = await findFinishedJob(services.queue, request);
    const leftMs = job.result.output.expiresAt - Date.now();
    reply.header('cache-control', `private, max-age=${Math.floor(leftMs / 1000)}, immutable`);
    return sendUnlessHeld(services, reply, job);
  });
}
