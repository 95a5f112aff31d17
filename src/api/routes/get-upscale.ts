/** GET /upscale/{id}: the job as it stands. */
import { findJob, jobParamsSchema, noQuerySchema } from '../find-job.ts';
import { toJobObject } from '../job-object.ts';
import { problemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';

const schema = {
  operationId: 'getUpscale',
  tags: ['upscale'],
  summary: 'A job as it stands',
  params: jobParamsSchema,
  querystring: noQuerySchema,
  response: {
    200: {
      description: 'The job object.',
      content: { 'application/json': { schema: { $ref: 'Job#' } } },
    },
    ...problemResponses('job_not_found', 'invalid_parameter', 'redis_unavailable'),
  },
};

export function getUpscale(app: App, { queue }: Services): void {
  app.get('/upscale/:id', { schema }, async (request, reply) => {
    const job = await findJob(queue, request);
    return reply.header('cache-control', 'no-store').send(toJobObject(job));
  });
}
