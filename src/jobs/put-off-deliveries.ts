/**
 * Deliveries that are due and wait for a slot. In BullMQ they are delayed, as those that wait for their
 * next attempt are; this index tells them apart, for the metrics.
 */
import type { Redis } from 'ioredis';
import { orUnavailable } from './redis-faults.ts';
import type { DeliveryJob, DeliveryQueue } from './webhook.ts';

/** Member = id of the delivery, score = when it was first put off, epoch ms. */
const indexKey = 'pisa:webhooks:put-off';

interface PutOffDelivery {
  delivery: DeliveryJob;
  /** Epoch ms. */
  since: number;
}

export class PutOffDeliveries {
  readonly #redis: Redis;

  /** @param redis connection of role `producer` */
  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /** Of a delivery that is put off again, the first time stands. @throws redis_unavailable */
  async add(id: string): Promise<void> {
    await orUnavailable(() => this.#redis.zadd(indexKey, 'NX', Date.now(), id));
  }

  /** It has its slot. @throws redis_unavailable */
  async remove(id: string): Promise<void> {
    await orUnavailable(() => this.#redis.zrem(indexKey, id));
  }

  /** The one that was put off first. */
  async oldest(deliveries: DeliveryQueue): Promise<PutOffDelivery | undefined> {
    for (;;) {
      const [id, since] = await this.#redis.zrange(indexKey, 0, '0', 'WITHSCORES');
      if (id === undefined) return undefined;
      const delivery = (await deliveries.getJob(id)) as DeliveryJob | undefined;
      if (delivery && !delivery.finishedOn) return { delivery, since: Number(since) };
      // Somebody emptied the queue by hand.
      await this.#redis.zrem(indexKey, id);
    }
  }
}
