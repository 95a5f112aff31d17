/** DELETE /upscale/{id}: cancels a job that has not ended, deletes one that has. */
import { jobNotFound, jobParamsSchema, noQuerySchema } from '../find-job.ts';
import { toJobObject } from '../job-object.ts';
import { problemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';

const schema = {
  operationId: 'deleteUpscale',
  tags: ['upscale'],
  summary: 'Cancel or delete a job',
  description:
    'A job that has not ended is canceled: it reads so at once, and its device is free within one tile; until then a further request answers so again. One that has ended is deleted with its images.',
  params: jobParamsSchema,
  querystring: noQuerySchema,
  response: {
    200: {
      description: 'Canceled; or canceled before, and its device has not let go of it yet.',
      content: { 'application/json': { schema: { $ref: 'Job#' } } },
    },
    204: { description: 'Deleted.', type: 'null' },
    ...problemResponses(
      'job_not_found',
      'invalid_parameter',
      'redis_unavailable',
      'storage_unavailable',
    ),
  },
};

export function deleteUpscale(app: App, { queue }: Services): void {
  app.delete('/upscale/:id', { schema }, async (request, reply) => {
    const { id } = request.params;
    const removed = await queue.remove(id);
    if (!removed) throw jobNotFound(id);
    reply.header('cache-control', 'no-store');
    if (removed.outcome === 'deleted') return reply.code(204).send();
    return reply.send(toJobObject(removed.job));
  });
}
