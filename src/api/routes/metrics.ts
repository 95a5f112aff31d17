/** GET /metrics: Prometheus text. Answers even while Redis is away, without the queue's depth then. */
import { setTimeout as delay } from 'node:timers/promises';
import type { UpscaleQueue } from '../../jobs/queue.ts';
import { metrics, registry } from '../../metrics.ts';
import { openProblemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';

/** A scrape has a time limit of its own, 10 s by default; what Redis says in this time is in it. */
const countsLimitMs = 1000;

const schema = {
  operationId: 'getMetrics',
  tags: ['service'],
  summary: 'Prometheus metrics',
  response: {
    200: {
      description: 'Text exposition format.',
      content: { 'text/plain': { schema: { type: 'string' } } },
    },
    ...openProblemResponses(),
  },
};

export function metricsRoute(app: App, { queue }: Services): void {
  app.get('/metrics', { schema }, async (_request, reply) => {
    await observeQueue(queue);
    return reply
      .header('cache-control', 'no-store')
      .type(registry.contentType)
      .send(await registry.metrics());
  });
}

/** An unknown depth is an absent sample, not a stale or a zero one. */
async function observeQueue(queue: UpscaleQueue): Promise<void> {
  metrics.queueJobs.reset();
  metrics.webhooksPending.reset();
  const limit = new AbortController();
  const counts = await Promise.race([
    Promise.all([queue.counts(), queue.pendingWebhooks()]).catch(() => undefined),
    delay(countsLimitMs, undefined, { signal: limit.signal }).catch(() => undefined),
  ]);
  limit.abort();
  if (!counts) return;
  const [jobs, webhooks] = counts;
  metrics.queueJobs.set({ state: 'queued' }, jobs.queued);
  metrics.queueJobs.set({ state: 'processing' }, jobs.processing);
  metrics.webhooksPending.set({}, webhooks);
}
