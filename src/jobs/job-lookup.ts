/** Reads what is known of jobs: from BullMQ, from the cancel and reuse records that overrule it, and their webhooks. */
import type { Redis } from 'ioredis';
import type { BullQueue } from './bull-queue.ts';
import { cancelRecords } from './cancellation.ts';
import {
  type JobSnapshot,
  snapshotOfCancelRecord,
  snapshotOfJob,
  snapshotOfReuseRecord,
  type UpscaleJob,
} from './job-snapshot.ts';
import { reuseRecords } from './stored-results.ts';
import { type DeliveryJob, stateOfDelivery } from './webhook.ts';

/** Its methods fail with Redis's own errors: the caller makes `redis_unavailable` of them. */
export class JobLookup {
  readonly #redis: Redis;
  readonly #bull: BullQueue;

  constructor(redis: Redis, bull: BullQueue) {
    this.#redis = redis;
    this.#bull = bull;
  }

  /** The job as it stands, or undefined when it is unknown. */
  async get(id: string): Promise<JobSnapshot | undefined> {
    const found = snapshotOf(id, await this.read(id));
    if (!found) return undefined;
    const snapshot = await this.withWebhook(found);
    if (snapshot.status !== 'queued') return snapshot;
    const queuePosition = await this.#position(id);
    return queuePosition === undefined ? snapshot : { ...snapshot, queuePosition };
  }

  /** One connection answers in order, so the state is never newer than the job (see `snapshotOfJob`). */
  read(id: string) {
    const queue = this.#bull.get();
    return Promise.all([
      cancelRecords.read(this.#redis, id),
      reuseRecords.read(this.#redis, id),
      queue.getJobState(id),
      queue.getJob(id) as Promise<UpscaleJob | undefined>,
    ]);
  }

  async withWebhook(job: JobSnapshot): Promise<JobSnapshot> {
    if (!job.data.webhook) return job;
    const webhook = stateOfDelivery(job.data.webhook, await this.delivery(job.id));
    return webhook ? { ...job, webhook } : job;
  }

  async delivery(id: string): Promise<DeliveryJob | undefined> {
    return (await this.#bull.deliveries().getJob(id)) as DeliveryJob | undefined;
  }

  /** The ids of all jobs that wait, the next one first. */
  async order(): Promise<string[]> {
    const queue = this.#bull.get();
    const [waiting, prioritized] = await Promise.all([
      this.#redis.lrange(queue.toKey('wait'), 0, -1),
      this.#redis.zrange(queue.toKey('prioritized'), 0, '-1'),
    ]);
    return [...waiting.reverse(), ...prioritized];
  }

  /** @returns how many jobs will be taken before this one; undefined when it does not wait */
  async #position(id: string): Promise<number | undefined> {
    const queue = this.#bull.get();
    const waiting = queue.toKey('wait');
    // Workers take from the tail, new jobs come in at the head; then by priority.
    const [length, index, rank] = await Promise.all([
      this.#redis.llen(waiting),
      this.#redis.lpos(waiting, id, 'RANK', -1),
      this.#redis.zrank(queue.toKey('prioritized'), id),
    ]);
    if (index !== null) return Math.max(0, length - 1 - index);
    return rank === null ? undefined : length + rank;
  }
}

type KnownOfJob = Awaited<ReturnType<JobLookup['read']>>;

/** @returns undefined when nothing is known of the job */
export function snapshotOf(
  id: string,
  [record, reused, state, job]: KnownOfJob,
): JobSnapshot | undefined {
  if (record) return snapshotOfCancelRecord(id, record);
  if (reused) return snapshotOfReuseRecord(id, reused);
  return job && snapshotOfJob(job, state);
}
