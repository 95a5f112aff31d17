/** GET /models: what `model=` can name. */
import Type from 'typebox';
import { colorFixes, oneOf } from '../../jobs/params.ts';
import { noQuerySchema } from '../find-job.ts';
import { problemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';

const modelSchema = Type.Object({
  name: Type.String(),
  version: Type.String(),
  sha256: Type.String({
    description: 'Identifies the bundle: of its manifest, which has the hashes of its graphs.',
  }),
  license: Type.String(),
  source: Type.String(),
  description: Type.String(),
  scale: Type.Number({
    description: 'What it was trained for, and works at; any scale up to it is that, reduced.',
  }),
  colorfix: oneOf(colorFixes, { description: 'What a job gets that names none.' }),
  default: Type.Boolean({ description: 'Serves requests that name no model.' }),
  available: Type.Boolean({
    description: 'A worker that is alive has it, and has not found that it cannot be opened.',
  }),
});

export const modelListSchema = Type.Object(
  { models: Type.Array(modelSchema) },
  { $id: 'ModelList' },
);

const schema = {
  operationId: 'listModels',
  tags: ['service'],
  summary: 'The models that workers have',
  querystring: noQuerySchema,
  response: {
    200: {
      description: 'By name.',
      content: { 'application/json': { schema: { $ref: 'ModelList#' } } },
    },
    ...problemResponses('invalid_parameter', 'redis_unavailable'),
  },
};

export function listModels(app: App, { queue, config }: Services): void {
  app.get('/models', { schema }, async (_request, reply) => {
    const known = await queue.models();
    // Field by field: a worker of another release may have reported more than the schema knows.
    const models: Type.Static<typeof modelSchema>[] = known.map((model) => ({
      name: model.name,
      version: model.version,
      sha256: model.sha256,
      license: model.license,
      source: model.source,
      description: model.description,
      scale: model.scale,
      colorfix: model.colorfix,
      default: model.name === config.MODEL,
      available: model.available,
    }));
    return reply.header('cache-control', 'no-store').send({ models });
  });
}
