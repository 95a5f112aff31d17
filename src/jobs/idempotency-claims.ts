/** Which job answers a request that has an idempotency key: that of an earlier request with the key, or a new one. */
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import { bindKey, type IdempotencyClaim, readBinding, rebindKey } from './idempotency.ts';
import type { JobLookup } from './job-lookup.ts';
import type { JobSnapshot } from './job-snapshot.ts';
import type { ResultReuse } from './result-reuse.ts';

export interface IdempotencyClaimsOptions {
  redis: Redis;
  lookup: JobLookup;
  reuse: Pick<ResultReuse, 'withDelivery'>;
}

/** True when it failed for what may have passed since. */
const mayBeTriedAgain = (job: JobSnapshot | undefined): boolean =>
  job?.status === 'failed' && job.error?.retryable === true;

export class IdempotencyClaims {
  readonly #options: IdempotencyClaimsOptions;

  constructor(options: IdempotencyClaimsOptions) {
    this.#options = options;
  }

  /** See `UpscaleQueue.isClaimed`. */
  async isClaimed(claim: Pick<IdempotencyClaim, 'client' | 'key'>): Promise<boolean> {
    const { redis, lookup } = this.#options;
    const bound = await readBinding(redis, claim);
    return bound !== undefined && !mayBeTriedAgain(await lookup.get(bound.id));
  }

  /** See `UpscaleQueue.findClaimed`. */
  async find({
    wording,
    ...claim
  }: Omit<Required<IdempotencyClaim>, 'fingerprint'>): Promise<JobSnapshot | undefined> {
    const { redis, lookup } = this.#options;
    const bound = await readBinding(redis, claim);
    return bound?.wording === wording ? lookup.get(bound.id) : undefined;
  }

  /** See `UpscaleQueue.claim`. */
  async claim(
    claim: IdempotencyClaim,
    newId: string,
    ttlSeconds: number,
    canReplace: boolean,
  ): Promise<{ id: string; job?: JobSnapshot }> {
    const { redis, lookup, reuse } = this.#options;
    const { id, fingerprint } = await bindKey(redis, claim, newId, ttlSeconds);
    if (fingerprint !== claim.fingerprint) throw keyReused();
    const job = id === newId ? undefined : await lookup.get(id);
    if (canReplace && mayBeTriedAgain(job)) {
      await rebindKey(redis, claim, { from: id, to: newId }, ttlSeconds);
      return this.claim(claim, newId, ttlSeconds, canReplace);
    }
    // Who answered it from a stored result may have ended, or lost Redis, before its webhook was queued.
    return job ? { id, job: await reuse.withDelivery(job) } : { id };
  }
}

const keyReused = (): AppError =>
  new AppError(
    'idempotency_key_reused',
    'This Idempotency-Key came before with another image, other parameters or on another route. Use a new key for a new request.',
    { errors: [{ pointer: '#/headers/idempotency-key', detail: 'Bound to another request.' }] },
  );
