/** What can be said of a job before a device sees it: refused here, it costs no place in the queue. */
import type { Config } from '../config.ts';
import { AppError, expected } from '../errors.ts';
import type { UpscaleQueue } from '../jobs/queue.ts';

const queueFullRetrySeconds = 10;

/**
 * Called before the upload is read.
 * @throws queue_full | unknown_model | redis_unavailable
 */
export async function checkRoomAndModel(
  queue: UpscaleQueue,
  model: string,
  config: Pick<Config, 'MAX_QUEUE_LENGTH' | 'MODEL'>,
): Promise<void> {
  const [counts, models] = await Promise.all([queue.counts(), queue.models()]);
  if (counts.queued >= config.MAX_QUEUE_LENGTH) {
    throw new AppError(
      'queue_full',
      `${counts.queued} jobs wait already. Try again in a while, or ask for more workers.`,
      { retryAfterSeconds: queueFullRetrySeconds },
    );
  }
  // The default model is known before the first worker has ever reported.
  const names = new Set([config.MODEL, ...models.map(({ name }) => name)]);
  if (!names.has(model)) {
    const detail = expected(`one of ${[...names].sort().join(', ')}`, 'model', model);
    throw new AppError('unknown_model', `${detail}. GET /models describes them.`, {
      errors: [{ pointer: '#/query/model', detail }],
    });
  }
}
