/**
 * GET /readyz: Redis answers and at least one device takes jobs; with `exclude=devices`, Redis answers; with
 * `exclude=devices,redis`, this instance does not end soon. Until Redis has once been seen to be a primary that lets us in,
 * that it answers is not enough.
 */
import Type from 'typebox';
import { AppError } from '../../errors.ts';
import { openProblemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';

const schema = {
  operationId: 'getReadiness',
  tags: ['service'],
  summary: 'Ready to work',
  querystring: Type.Object(
    {
      exclude: Type.Optional(
        // Devices are known through Redis, so there is no third.
        Type.Unsafe<'devices' | 'devices,redis'>({
          type: 'string',
          enum: ['devices', 'devices,redis'],
          description:
            'What is not asked for: `devices` makes it ready to accept jobs, for a load balancer in front of workers that may be scaled to none; `devices,redis` ready to answer, for one whose clients shall get the `503` with `Retry-After` while Redis is away.',
        }),
      ),
    },
    { additionalProperties: false },
  ),
  response: {
    200: {
      description: 'Unless excluded, Redis answers and at least one device is ready.',
      content: {
        'application/json': {
          schema: {
            type: 'object',
            properties: {
              status: { const: 'ready' },
              devices: {
                type: 'object',
                description: 'How many devices are in each state; empty where Redis is not asked.',
                additionalProperties: { type: 'integer', minimum: 1 },
              },
            },
            required: ['status', 'devices'],
          },
        },
      },
    },
    ...openProblemResponses('not_ready', 'redis_unavailable', 'invalid_parameter'),
  },
};

export function readyz(app: App, { queue, leaving }: Services): void {
  app.get('/readyz', { schema }, async ({ query }, reply) => {
    if (leaving.aborted) {
      throw new AppError('shutting_down', 'This instance ends soon: use another one.', {
        retryAfterSeconds: 1,
      });
    }
    const devices: Record<string, number> = {};
    const asksRedis = query.exclude !== 'devices,redis';
    if (asksRedis) await queue.accepts();
    const workers = asksRedis ? await queue.workers() : [];
    for (const worker of workers) {
      for (const { status } of worker.devices) devices[status] = (devices[status] ?? 0) + 1;
    }
    if (!devices.ready && !query.exclude) {
      const states = Object.entries(devices).map(([status, count]) => `${count} ${status}`);
      throw new AppError(
        'not_ready',
        `No device is ready (${states.length > 0 ? states.join(', ') : 'no worker has reported'}).`,
        { retryAfterSeconds: 2 },
      );
    }
    return reply.header('cache-control', 'no-store').send({ status: 'ready', devices });
  });
}
