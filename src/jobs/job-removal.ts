/** Takes jobs away: cancels one that has not ended, deletes one that has. */
import { setTimeout as pause } from 'node:timers/promises';
import type { Redis } from 'ioredis';
import { metrics } from '../metrics.ts';
import { deleteObjects, type ObjectStore } from '../storage/object-store.ts';
import type { BullQueue } from './bull-queue.ts';
import { deleteCancelRecord, publishCancel, writeCancelRecord } from './cancellation.ts';
import { heatmapId, outputKey, sideKeys } from './job.ts';
import type { JobLookup } from './job-lookup.ts';
import {
  isFinal,
  type JobSnapshot,
  snapshotOfCancelRecord,
  snapshotOfJob,
  type UpscaleJob,
} from './job-snapshot.ts';
import { forgetKept } from './kept-objects.ts';
import { deleteReuseRecord, forgetResult } from './stored-results.ts';
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

/** Whoever removes a record has done so by then, or was killed. */
const removalLimitMs = 5000;
const lookAgainMs = 50;

export class JobRemoval {
  readonly #options: JobRemovalOptions;

  constructor(options: JobRemovalOptions) {
    this.#options = options;
  }

  /** @returns undefined when there is no such job */
  async remove(id: string): Promise<RemoveOutcome | undefined> {
    const [record, reused, state, job] = await this.#options.lookup.read(id);
    if (reused) return this.#delete(id);
    if (record) {
      // Still stopping: the record is the flag that stops it, so it has to stay.
      if (state !== 'active') return this.#delete(id);
      return { outcome: 'canceled', job: snapshotOfCancelRecord(id, record) };
    }
    if (!job) return undefined;
    if (isFinal(snapshotOfJob(job, state).status)) return this.#delete(id);
    return this.#cancel(id, job, state);
  }

  /**
   * Makes room for another job under the id of one that has ended. Of all who ask for it at once one removes the
   * record and the others wait for that: nobody takes away what was entered since.
   */
  async removeEnded({ id, createdAt }: Pick<JobSnapshot, 'id' | 'createdAt'>): Promise<void> {
    const { redis, lookup } = this.#options;
    const claim = `pisa:removal:${id}:${createdAt}`;
    if (await redis.set(claim, '1', 'PX', removalLimitMs, 'NX')) {
      await this.remove(id);
      return;
    }
    const deadline = Date.now() + removalLimitMs;
    while (Date.now() < deadline) {
      if ((await lookup.get(id))?.createdAt !== createdAt) return;
      await pause(lookAgainMs);
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
    await writeCancelRecord(redis, id, record, recordTtlSeconds);
    if (await this.#takeOut(job)) {
      metrics.jobs.inc({ status: 'canceled', code: 'canceled', model: job.data.params.model });
      await deleteObjects(store, sideKeys(id));
    } else if ((await bull.get().getJobState(id)) === 'active') {
      await publishCancel(redis, id);
    } else {
      // It ended while we looked: then this was the removal of a finished job.
      return this.#delete(id);
    }
    onRemoved(id);
    return { outcome: 'canceled', job: snapshotOfCancelRecord(id, record) };
  }

  /** @returns false when a worker holds the job or it has ended, so that it cannot be taken out of the queue */
  async #takeOut(job: UpscaleJob): Promise<boolean> {
    const state = await job.getState();
    if (state !== 'waiting' && state !== 'prioritized' && state !== 'delayed') return false;
    try {
      await job.remove();
      return true;
    } catch (error) {
      // BullMQ has no class for this one. A worker took the job in the meantime.
      if (error instanceof Error && error.message.includes('locked')) return false;
      throw error;
    }
  }

  async #delete(id: string): Promise<RemoveOutcome> {
    const { redis, bull, store, lookup, onRemoved } = this.#options;
    const queue = bull.get();
    // What was deleted can still be told of.
    const [ended, delivery] = await Promise.all([lookup.get(id), lookup.delivery(id)]);
    if (ended && delivery && isFinal(ended.status)) await recordEnd(delivery, ended);
    const keys = [...sideKeys(id), outputKey(id), outputKey(heatmapId(id))];
    const [heatmapsRemoved] = await Promise.all([
      queue.remove(heatmapId(id)),
      queue.remove(id),
      deleteObjects(store, keys),
      forgetKept(redis, keys),
    ]);
    // A worker holds it: it is stopped, as any job that runs, or its picture would outlive what it shows.
    if (heatmapsRemoved === 0) await this.remove(heatmapId(id));
    // One that has not been delivered yet keeps its record, which says what to deliver.
    if (delivery?.finishedOn) await delivery.remove();
    if (ended?.result) await forgetResult(redis, id, ended.data, ended.result);
    await deleteCancelRecord(redis, id);
    await deleteReuseRecord(redis, id);
    onRemoved(id);
    return { outcome: 'deleted' };
  }
}
