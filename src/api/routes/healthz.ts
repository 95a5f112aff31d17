/** GET /healthz: this process answers. Nothing else is asked, so a Redis that is away restarts no api. */
import { openProblemResponses } from '../problem-schema.ts';
import type { App } from '../services.ts';

const schema = {
  operationId: 'getHealth',
  tags: ['service'],
  summary: 'Alive',
  response: {
    200: {
      description: 'The process answers.',
      content: {
        'application/json': {
          schema: {
            type: 'object',
            properties: { status: { const: 'ok' } },
            required: ['status'],
          },
        },
      },
    },
    ...openProblemResponses(),
  },
};

export function healthz(app: App): void {
  app.get('/healthz', { schema }, async (_request, reply) =>
    reply.header('cache-control', 'no-store').send({ status: 'ok' }),
  );
}
