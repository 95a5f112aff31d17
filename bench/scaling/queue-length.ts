/** What the chart's KEDA triggers read (helm/pisa-serve/templates/scaling.yaml), from the same keys of the same Redis. */
import type { Redis } from 'ioredis';

/** Jobs that wait, with and without a priority or for another attempt, and that run: else a worker would be ended in its only job. */
export async function jobsInQueue(redis: Redis): Promise<number> {
  const [waiting, prioritized, delayed, active] = await Promise.all([
    redis.llen('bull:upscale:wait'),
    redis.zcard('bull:upscale:prioritized'),
    redis.zcard('bull:upscale:delayed'),
    redis.llen('bull:upscale:active'),
  ]);
  return waiting + prioritized + delayed + active;
}
