import { expect, test } from 'vitest';
import { forget, metrics, modeOf, queueMetrics, registry } from '../../src/metrics.ts';

test('every metric is in the one registry, with a name of ours and a help text', async () => {
  const ours = (await registry.getMetricsAsJSON()).filter(({ name }) => name.startsWith('pisa_'));
  expect(ours).toHaveLength(Object.keys({ ...metrics, ...queueMetrics }).length);
  for (const { name, help } of ours) {
    expect(name).toMatch(/^pisa_[a-z_]+$/);
    expect(help.endsWith('.')).toBe(true);
  }
});

test('the defaults of the process are there, the event-loop lag among them', async () => {
  const text = await registry.metrics();
  expect(text).toContain('nodejs_eventloop_lag_p99_seconds');
  expect(text).toContain('process_resident_memory_bytes');
});

test('the mode of a job is the number of its evaluations in words', () => {
  expect([modeOf(0), modeOf(1), modeOf(2)]).toEqual(['none', 'one', 'both']);
});

test('what only an api knows is absent where nobody looks, not zero', async () => {
  expect(await registry.metrics()).not.toMatch(/^pisa_redis_aof_enabled/m);
  queueMetrics.redisAofEnabled.set(1);
  expect(await registry.metrics()).toMatch(/^pisa_redis_aof_enabled 1$/m);
  forget(queueMetrics.redisAofEnabled);
  expect(await registry.metrics()).not.toMatch(/^pisa_redis_aof_enabled/m);
});
