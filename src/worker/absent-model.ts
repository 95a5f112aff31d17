/**
 * Jobs whose model this worker does not have, or could not open. All workers share one queue, and while a roll-out changes
 * the model some have the old one and others the new one: such a job goes back, for a worker that has it.
 */
import type { Redis } from 'ioredis';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import type { UpscaleJob } from '../jobs/job-snapshot.ts';
import { locateModel, type ModelSummary } from '../jobs/worker-registry.ts';

/** The job belongs back in the queue for `delayMs`, without losing an attempt: another worker shall take it. */
export class ModelAbsent extends Error {
  override readonly name = 'ModelAbsent';
  readonly delayMs: number;

  constructor(delayMs: number) {
    super();
    this.delayMs = delayMs;
  }
}

/**
 * While a live worker has the model. Of many workers the first new one finds such a job soon, and a thousand jobs that wait
 * cost Redis and the api little.
 */
const elsewhereDelayMs = 2000;
/** While none has: nothing is gained by a look before one has started. */
const nowhereDelayMs = 10_000;
/** Beyond the times that are set: a pod finds its node, an image and a bundle are downloaded. */
const arrivalMarginMs = 300_000;

/**
 * How long a roll-out can take to bring the first worker with another model: where there is no room for two, an old one
 * ends its jobs before the new one starts.
 */
export const modelArrivalMs = ({
  SHUTDOWN_GRACE_SECONDS,
  DEVICE_START_SECONDS,
}: Pick<Config, 'SHUTDOWN_GRACE_SECONDS' | 'DEVICE_START_SECONDS'>): number =>
  (SHUTDOWN_GRACE_SECONDS + DEVICE_START_SECONDS) * 1000 + arrivalMarginMs;

interface ModelSearch {
  redis: Redis;
  /** Those of this worker. */
  models: readonly ModelSummary[];
  /** Names of those that its devices could not open. */
  unopened: readonly string[];
  /** See `modelArrivalMs`. */
  arrivalMs: number;
}

/**
 * Resolves when this worker has the model of the job. One that it could not open is tried again where nobody else has it:
 * what was in the way may have gone, and if it has not, the job says what it is.
 * @throws ModelAbsent when another worker has it, or may come with it
 * @throws unknown_model when nobody will: a model that was only named, is not the api's own, and that no worker warms up
 *   with must have been seen lately
 */
export async function requireModel(
  { data, timestamp }: UpscaleJob,
  { redis, models, unopened, arrivalMs }: ModelSearch,
): Promise<void> {
  const { model } = data.params;
  const names = models.map(({ name }) => name);
  if (names.includes(model)) return;
  const location = await locateModel(redis, model);
  if (location.available) throw new ModelAbsent(elsewhereDelayMs);
  if (unopened.includes(model)) return;
  // Whoever could not open it tries again.
  if (location.unopened) throw new ModelAbsent(elsewhereDelayMs);
  const isExpected = data.isDefaultModel || location.listed;
  const expectedSince = Math.max(location.seenAt, isExpected ? timestamp : 0);
  if (Date.now() - expectedSince > arrivalMs) throw unknownModel(model, names);
  throw new ModelAbsent(nowhereDelayMs);
}

export function unknownModel(name: string, known: readonly string[]): AppError {
  return new AppError(
    'unknown_model',
    `There is no model "${name}". This service has: ${known.join(', ') || 'none'}.`,
  );
}
