/**
 * How much the results take that were copied from stored ones. Such a copy costs its client neither a place in the queue
 * nor device time, so nothing else bounds how many one small photo, sent again and again, can make. Redis holds an index
 * of what they leave: the copy, which goes with its result, and the record of its job, which stays longer.
 */
import type { Redis } from 'ioredis';
import type { UpscaleJobData, UpscaleJobResult } from './job.ts';

/** Member = name, bytes and client; score = when its room is free again, epoch ms. Hash: bytes by client and in all. */
const indexKeys = ['pisa:copies:until', 'pisa:copies:bytes'];

/** ZREM comes first: a script that has removed something may write, too, in a Redis whose memory is full. */
const dropFunction = `
local function drop(member)
  if redis.call('ZREM', KEYS[1], member) == 0 then return end
  local bytes, client = string.match(member, '^%S+ (%d+) (.*)$')
  for _, name in ipairs({ '*', client }) do
    if redis.call('HINCRBY', KEYS[2], name, '-' .. bytes) <= 0 then redis.call('HDEL', KEYS[2], name) end
  end
end`;

/**
 * ARGV: now, client, most bytes of all, most of the client, then for each object: member, bytes, until. Returns 1 when all
 * are within both; what was noted before counts once.
 */
const admitScript = `${dropFunction}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])) do drop(member) end
local added = 0
for i = 5, #ARGV, 3 do
  if not redis.call('ZSCORE', KEYS[1], ARGV[i]) then added = added + tonumber(ARGV[i + 1]) end
end
local mosts = { ['*'] = ARGV[3], [ARGV[2]] = ARGV[4] }
for name, most in pairs(mosts) do
  local taken = tonumber(redis.call('HGET', KEYS[2], name) or '0')
  if added > 0 and taken + added > tonumber(most) then return 0 end
end
for i = 5, #ARGV, 3 do redis.call('ZADD', KEYS[1], ARGV[i + 2], ARGV[i]) end
for name in pairs(mosts) do redis.call('HINCRBY', KEYS[2], name, added) end
return 1`;

const forgetScript = `${dropFunction}
for _, member in ipairs(ARGV) do drop(member) end`;

/** What takes room on account of a job. */
interface Counted {
  /** Without spaces: the id of the job, and what of it this is. */
  name: string;
  bytes: number;
}

/** Whose room it takes. */
type Owner = Pick<UpscaleJobData, 'client'>;

export interface ReuseBounds {
  /** Of all copies that have not expired. */
  maxBytes: number;
  /** Of those of one client. */
  maxClientBytes: number;
}

/** What the smallest object takes in a folder. */
const leastBytes = 4096;
/**
 * What Redis takes for the record of a job and its places in indexes, and for its webhook: without its URL, which is in
 * the one and twice in the other.
 */
const recordBytes = 2048;
const webhookBytes = 4096;

/** The image of a job that was answered from a stored result. */
export const copyOf = (id: string, { output }: Pick<UpscaleJobResult, 'output'>): Counted => ({
  name: id,
  bytes: Math.max(output.bytes, leastBytes),
});

/** The same as 0.6.0 noted it, with its record. To be removed when none of its copies can be there: after 0.7. */
export const copyOf060 = (id: string, result: Pick<UpscaleJobResult, 'output'>): Counted => ({
  name: id,
  bytes: copyOf(id, result).bytes + recordBytes,
});

/** What Redis holds of it: its record, and its webhook. */
export const recordOf = (id: string, { webhook }: Pick<UpscaleJobData, 'webhook'>): Counted => ({
  name: `${id}:record`,
  bytes: recordBytes + (webhook ? webhookBytes + 3 * webhook.url.length : 0),
});

/**
 * For so long the job of a copy is known: as long again as its result lives, from an hour to the day that other jobs are
 * known for. With a day for each, copies that live for a second would leave records without a bound.
 * @param keySeconds for so long an Idempotency-Key is bound to the job, 0 for none: a retry must find it
 */
export const reuseRecordTtl = (ttlSeconds: number, keySeconds: number): number =>
  Math.max(keySeconds, ttlSeconds + Math.min(Math.max(ttlSeconds, 3600), 86_400));

const memberOf = ({ name, bytes }: Counted, { client = '' }: Owner): string =>
  `${name} ${bytes} ${client}`;

/**
 * Notes what is about to be made; once more for the same changes nothing but its life.
 * @param counted until: when its room is free again, epoch ms
 * @returns false when there is no room for all of it
 */
export async function admitReuse(
  redis: Redis,
  owner: Owner,
  counted: readonly (Counted & { until: number })[],
  { maxBytes, maxClientBytes }: ReuseBounds,
): Promise<boolean> {
  const facts = counted.flatMap((one) => [memberOf(one, owner), one.bytes, one.until]);
  const admitted = await redis.eval(
    admitScript,
    indexKeys.length,
    ...indexKeys,
    Date.now(),
    owner.client ?? '',
    maxBytes,
    maxClientBytes,
    ...facts,
  );
  return admitted === 1;
}

/** They have been deleted, or were not made after all. */
export async function forgetReuse(
  redis: Redis,
  owner: Owner,
  counted: readonly Counted[],
): Promise<void> {
  const members = counted.map((one) => memberOf(one, owner));
  await redis.eval(forgetScript, indexKeys.length, ...indexKeys, ...members);
}
