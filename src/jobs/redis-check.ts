/** Whether a Redis is one that the service can work with: its database, its rules for our user, its room for writes. */
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import { explainForbidden, forbidden, refusal } from './redis-faults.ts';

/**
 * Tries one command for each thing that Redis can forbid a user: keys, the channel, scripts; and whether it takes writes.
 * @throws what Redis says
 */
export async function tryOut(redis: Redis): Promise<void> {
  const answers = await redis
    .pipeline()
    .set('pisa:probe', '1', 'EX', 60)
    .exists('bull:probe')
    .publish('pisa:probe', '')
    .eval('return 1', 0)
    .exec();
  const errors = (answers ?? []).flatMap(([error]) => error ?? []);
  // A Redis that is full may have more room in a minute; what it forbids it will still forbid.
  const [first] = errors;
  if (first) throw errors.find((error) => forbidden(error) !== undefined) ?? first;
}

/**
 * What a start must not go on without.
 * @throws invalid_config when Redis has no such database, or forbids its user what the service does
 */
export async function checkRedis(redis: Redis): Promise<void> {
  await checkDatabase(redis);
  try {
    await tryOut(redis);
  } catch (error) {
    if (error instanceof Error && refusal(error) !== undefined) return;
    throw explainForbidden(error);
  }
}

/**
 * ioredis goes on in database 0 when Redis refuses the one that was asked for: two services would share a queue.
 * @throws invalid_config when Redis has no such database
 */
async function checkDatabase(redis: Redis): Promise<void> {
  const { db = 0 } = redis.options;
  if (db === 0) return;
  try {
    await redis.select(db);
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'ReplyError') throw error;
    throw new AppError(
      'invalid_config',
      `Redis refuses database ${db} of REDIS_URL: ${error.message}.`,
      { cause: error },
    );
  }
}
