/** GET /metrics: Prometheus text. Answers even while Redis is away, without what Redis would tell then. */
import { jobPriorities } from '../../jobs/job.ts';
import type { UpscaleQueue } from '../../jobs/queue.ts';
import type { QueueObservation } from '../../jobs/queue-observation.ts';
import { forget, queueMetrics, registry } from '../../metrics.ts';
import { unlessAborted } from '../../waits.ts';
import { openProblemResponses } from '../problem-schema.ts';
import type { App, Services } from '../services.ts';

/** A scrape has a time limit of its own, 10 s by default; what Redis says in this time is in it. */
const observeLimitMs = 1000;

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
    await observe(queue);
    return reply
      .header('cache-control', 'no-store')
      .type(registry.contentType)
      .send(await registry.metrics());
  });
}

/** What is not known is an absent sample, not a stale or a zero one. */
async function observe(queue: UpscaleQueue): Promise<void> {
  const limit = AbortSignal.timeout(observeLimitMs);
  const seen = await unlessAborted(queue.observe(), limit).catch(() => undefined);
  for (const gauge of Object.values(queueMetrics)) forget(gauge);
  queueMetrics.redisUp.set(seen ? 1 : 0);
  if (seen) showQueue(seen);
}

function showQueue({ webhooks, keptBytes, workers, redis, ...jobs }: QueueObservation): void {
  queueMetrics.queueJobs.set({ state: 'queued' }, jobs.queued);
  queueMetrics.queueJobs.set({ state: 'processing' }, jobs.processing);
  for (const priority of jobPriorities) {
    const seconds = jobs.oldestWaitMs[priority] / 1000;
    queueMetrics.queueOldestWaitSeconds.set({ priority }, seconds);
  }
  queueMetrics.queueStuckJobs.set(jobs.stuck);
  queueMetrics.webhooksPending.set(webhooks.pending);
  queueMetrics.webhooksOldestDueSeconds.set(webhooks.oldestDueMs / 1000);
  queueMetrics.keptBytes.set(keptBytes);
  queueMetrics.workers.set({ state: 'ready' }, workers.ready);
  queueMetrics.workers.set({ state: 'not_ready' }, workers.notReady);
  if (!redis) return;
  queueMetrics.redisAofEnabled.set(redis.aofEnabled ? 1 : 0);
  queueMetrics.redisAofLastWriteOk.set(redis.aofLastWriteOk ? 1 : 0);
  queueMetrics.redisMaxmemoryPolicy.set({ policy: redis.maxmemoryPolicy }, 1);
  queueMetrics.redisMemoryUsedBytes.set(redis.usedBytes);
  queueMetrics.redisMemoryMaxBytes.set(redis.maxBytes);
}
