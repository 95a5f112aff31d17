/**
 * Idempotency keys: the first request with a key binds it to a job id before the job exists. Whoever comes later
 * with the same key and the same request gets that job, or, if the first request died on the way, makes it under
 * the same id. So however often a client tries, and wherever we are killed, there is one job. Only one that failed for what
 * may have passed gives way to another, with an id of its own: it stays on record, and its webhook tells of it.
 */
import { createHash } from 'node:crypto';
import type { Redis } from 'ioredis';

export interface IdempotencyClaim {
  /** Whose key it is: keys of different clients never meet. */
  client: string;
  /** As the client sent it. */
  key: string;
  /** Digest of all that the request asks. */
  fingerprint: string;
  /**
   * Digest of the parameters in its path and query, for one that asks in terms of another job, which may be gone at a
   * retry.
   */
  wording?: string;
}

/** What a key is bound to. */
type Binding = Pick<IdempotencyClaim, 'fingerprint' | 'wording'> & { id: string };

const bindingOf = ({ fingerprint, wording }: IdempotencyClaim, id: string): Binding => ({
  id,
  fingerprint,
  ...(wording === undefined ? {} : { wording }),
});

/** Hashed: keys are the client's text, of any length and content. */
const bindingKey = ({ client, key }: Pick<IdempotencyClaim, 'client' | 'key'>): string =>
  `pisa:idempotency:${createHash('sha256').update(`${client}\n${key}`).digest('hex')}`;

/**
 * Binds the key to `id`, unless it is bound.
 * @returns what it is bound to now
 */
export async function bindKey(
  redis: Redis,
  claim: IdempotencyClaim,
  id: string,
  ttlSeconds: number,
): Promise<Binding> {
  const ours = bindingOf(claim, id);
  const name = bindingKey(claim);
  for (;;) {
    if (await redis.set(name, JSON.stringify(ours), 'EX', ttlSeconds, 'NX')) return ours;
    const bound = await readBinding(redis, claim);
    // Expired in between: bind it after all.
    if (bound) return bound;
  }
}

/** KEYS[1]; ARGV: id that it is bound to, new binding, seconds. */
const rebindScript = `
local bound = redis.call('GET', KEYS[1])
if bound and cjson.decode(bound).id == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'EX', ARGV[3]) end`;

/** Binds the key to another id, unless somebody else has done so: of all who retry at once, one does. */
export async function rebindKey(
  redis: Redis,
  claim: IdempotencyClaim,
  { from, to }: { from: string; to: string },
  ttlSeconds: number,
): Promise<void> {
  const binding = JSON.stringify(bindingOf(claim, to));
  await redis.eval(rebindScript, 1, bindingKey(claim), from, binding, ttlSeconds);
}

/** @returns undefined when the key is new */
export async function readBinding(
  redis: Redis,
  claim: Pick<IdempotencyClaim, 'client' | 'key'>,
): Promise<Binding | undefined> {
  const bound = await redis.get(bindingKey(claim));
  return bound === null ? undefined : (JSON.parse(bound) as Binding);
}
