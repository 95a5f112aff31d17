/** GET /upscale/{id}/result: the image of a job that has succeeded. */
import { contentTypeOf } from '../../jobs/params.ts';
import { findFinishedJob, jobParamsSchema, noQuerySchema } from '../find-job.ts';
import { problemResponses } from '../problem-schema.ts';
import { matchesEtag, resultEtag, resultHeaderSchemas } from '../result-headers.ts';
import { sendResult } from '../send-result.ts';
import type { App, Services } from '../services.ts';

const schema = {
  operationId: 'getUpscaleResult',
  tags: ['upscale'],
  summary: 'The image of a job',
  description: 'Never changes: cache it until it expires. HEAD works too.',
  params: jobParamsSchema,
  querystring: noQuerySchema,
  headers: {
    type: 'object',
    properties: { 'if-none-match': { type: 'string', description: 'An ETag seen before.' } },
  },
  response: {
    200: {
      description: 'The image.',
      headers: { ...resultHeaderSchemas, 'Cache-Control': { type: 'string' } },
      content: Object.fromEntries(
        Object.values(contentTypeOf).map((type) => [
          type,
          { schema: { type: 'string', format: 'binary' } },
        ]),
      ),
    },
    304: { description: 'The image that you have is the one.', type: 'null' },
    ...problemResponses(
      'job_not_found',
      'job_not_finished',
      'job_has_no_result',
      'canceled',
      'result_expired',
      'invalid_parameter',
      'redis_unavailable',
      'storage_unavailable',
    ),
  },
};

export function getUpscaleResult(app: App, { queue, store }: Services): void {
  app.get('/upscale/:id/result', { schema }, async (request, reply) => {
    const job = await findFinishedJob(queue, request.params.id);
    const leftMs = job.result.output.expiresAt - Date.now();
    const etag = resultEtag(job);
    reply.header('cache-control', `private, max-age=${Math.floor(leftMs / 1000)}, immutable`);
    // It never changes: who has it needs no look at the store.
    if (leftMs > 0 && matchesEtag(request.headers['if-none-match'], etag)) {
      return reply.code(304).header('etag', etag).send();
    }
    return sendResult(reply, store, job);
  });
}
