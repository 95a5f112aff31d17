/** Takes jobs away: cancels one that has not ended, deletes one that has. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { metrics } from '../metrics.ts';
import { deleteObjects, type ObjectStore } from '../storage/object-store.ts';
import type { BullQueue } from './bull-queue.ts';
import { cancelRecords, publishCancel, recordCancel } from './cancellation.ts';
import { heatmapId, outputKey, sideKeys } from './job.ts';
import { type JobLookup, snapshotOf } from './job-lookup.ts';
import {
  isFinal,
  type JobSnapshot,
  snapshotOfCancelRecord,
  type UpscaleJob,
} from './job-snapshot.ts';
import { dropObjects } from './kept-objects.ts';
import { copyOf, copyOf060, forgetReuse, recordOf } from './reused-bytes.ts';
import { forgetResult, reuseRecords } from './stored-results.ts';
import { recordEnd } from './webhook.ts';

export type RemoveOutcome =
  | { outcome: 'canceled'; job: JobSnapshot }
  /** It had ended before: its images and its record are gone now. */
  | { outcome: 'deleted' };

export interface JobRemovalOptions {
  redis: Redis;
  bull: BullQueue;
  lookup: JobLookup;
  store: ObjectStore;
  /** How long a canceled job can be looked up. */
  recordTtlSeconds: number;
  /** Told of every job that was canceled or deleted. */
  onRemoved: (id: string) => void;
}

/** Whoever removes a job has done so by then, or was killed: S3 and Redis together are not waited for so long. */
const removalLimitMs = 30_000;
const lookAgainMs = 50;

const isQueued = (state: string): boolean =>
  state === 'waiting' || state === 'prioritized' || state === 'delayed';

export class JobRemoval {
  readonly #options: JobRemovalOptions;

  constructor(options: JobRemovalOptions) {
    this.#options = options;
  }

  /** @returns undefined when there is no such job */
  async remove(id: string): Promise<RemoveOutcome | undefined> {
    const removed = await this.#remove(id);
    if (removed?.outcome !== 'canceled') return removed;
    return { ...removed, job: await this.#options.lookup.withWebhook(removed.job) };
  }

  async #remove(id: string): Promise<RemoveOutcome | undefined> {
    const known = await this.#options.lookup.read(id);
    const [record, , state, job] = known;
    const found = snapshotOf(id, known);
    if (!found) return undefined;
    // Still stopping: the record is the flag that stops it, so it has to stay.
    if (record && state === 'active') return { outcome: 'canceled', job: found };
    if (isFinal(found.status) || !job) return this.#delete(found);
    return this.#cancel(id, job, state);
  }

  /**
   * Makes room for another job under the id of one that has ended. Of all who ask for it at once one removes the
   * job and the others wait for that: nobody takes away what was entered since.
   */
  async removeEnded({ id, createdAt }: Pick<JobSnapshot, 'id' | 'createdAt'>): Promise<void> {
    const { redis, lookup } = this.#options;
    const claim = `pisa:removal:${id}:${createdAt}`;
    while ((await lookup.get(id))?.createdAt === createdAt) {
      if (await redis.set(claim, '1', 'PX', removalLimitMs, 'NX')) {
        return this.#removeClaimed(id, claim);
      }
      await pause(lookAgainMs);
    }
  }

  async #removeClaimed(id: string, claim: string): Promise<void> {
    let removed: RemoveOutcome | undefined;
    try {
      removed = await this.remove(id);
    } finally {
      // The store is away, or a worker still stops: the next one may try.
      if (removed?.outcome !== 'deleted') await this.#options.redis.del(claim).catch(() => {});
    }
  }

  async #cancel(id: string, job: UpscaleJob, state: string): Promise<RemoveOutcome> {
    const { redis, bull, store, recordTtlSeconds, onRemoved } = this.#options;
    const record = {
      data: job.data,
      createdAt: job.timestamp,
      ...(state === 'active' && job.processedOn ? { startedAt: job.processedOn } : {}),
      canceledAt: Date.now(),
    };
    await recordCancel(redis, id, record, recordTtlSeconds);
    const canceled = snapshotOfCancelRecord(id, record);
    if (await this.#takeOut(job)) {
      metrics.jobs.inc({ status: 'canceled', code: 'canceled', model: job.data.params.model });
      await deleteObjects(store, sideKeys(id));
    } else {
      const stateNow = await bull.get().getJobState(id);
      // A worker had it for a moment, and has left it to others (src/worker/absent-model.ts).
      if (isQueued(stateNow)) return this.#cancel(id, job, stateNow);
      // It ended while we looked: then this was the removal of a finished job.
      if (stateNow !== 'active') return this.#delete(canceled);
      await publishCancel(redis, id);
    }
    onRemoved(id);
    return { outcome: 'canceled', job: canceled };
  }

  /** @returns false when a worker holds the job or it has ended, so that it cannot be taken out of the queue */
  async #takeOut(job: UpscaleJob): Promise<boolean> {
    if (!isQueued(await job.getState())) return false;
    try {
      await job.remove();
      return true;
    } catch (error) {
      // BullMQ has no class for this one. A worker took the job in the meantime.
      if (error instanceof Error && error.message.includes('locked')) return false;
      throw error;
    }
  }

  async #delete(ended: JobSnapshot): Promise<RemoveOutcome> {
    const { redis, bull, store, lookup, onRemoved } = this.#options;
    const { id } = ended;
    const queue = bull.get();
    // What was deleted can still be told of.
    const delivery = await lookup.delivery(id);
    if (delivery) await recordEnd(delivery, ended);
    const heatmap = heatmapId(id);
    // A worker holds it: it is stopped, as any job that runs, or its picture would outlive what it shows.
    if ((await queue.remove(heatmap)) === 0) await this.remove(heatmap);
    const keys = [...sideKeys(id), outputKey(id), outputKey(heatmap)];
    // Before the records: where the store is away they stay, and the job can be deleted once more.
    await dropObjects({ redis, store }, keys);
    const isHeld = (await queue.remove(id)) === 0;
    // Back in the queue when it was canceled, and taken meanwhile: the record is the flag that stops it.
    if (isHeld && ended.status === 'canceled') return { outcome: 'canceled', job: ended };
    // One that was asked for while the images went; one that was stopped keeps the record that says so.
    const late = await lookup.get(heatmap);
    if (late && late.status !== 'canceled') await this.remove(heatmap);
    // One that has not been delivered yet keeps its record, which says what to deliver.
    const isTold = delivery === undefined || Boolean(delivery.finishedOn);
    if (isTold) await delivery?.remove();
    if (ended.result) {
      await forgetResult(redis, id, ended.data, ended.result);
      const copies = [copyOf(id, ended.result), copyOf060(id, ended.result)];
      const gone = [...copies, ...(isTold ? [recordOf(id, ended.data)] : [])];
      if (ended.reused) await forgetReuse(redis, ended.data, gone);
    }
    await cancelRecords.delete(redis, id);
    await reuseRecords.delete(redis, id);
    onRemoved(id);
    return { outcome: 'deleted' };
  }
}
