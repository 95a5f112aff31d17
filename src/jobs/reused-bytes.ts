/**
 * How much the results take that were copied from stored ones. Such a copy costs its client neither a place in the queue
 * nor device time, so nothing else bounds how many one small photo, sent again and again, can make. Redis holds an index
 * of the copies: what each takes with its record, for whom, and until when.
 */
import type { Redis } from 'ioredis';
import { longestSweepMs } from '../storage/object-store.ts';
import type { UpscaleJobData, UpscaleJobResult } from './job.ts';

/** Member = job id, bytes and client; score = when its room is free again, epoch ms. Hash: bytes by client and in all. */
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

/** ARGV: now, member, until, bytes, client, most bytes of all, most of the client. Returns 1 when it is within both. */
const admitScript = `${dropFunction}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])) do drop(member) end
if redis.call('ZSCORE', KEYS[1], ARGV[2]) then
  redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
  return 1
end
for name, most in pairs({ ['*'] = ARGV[6], [ARGV[5]] = ARGV[7] }) do
  local taken = tonumber(redis.call('HGET', KEYS[2], name) or '0')
  if taken + tonumber(ARGV[4]) > tonumber(most) then return 0 end
end
redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
for _, name in ipairs({ '*', ARGV[5] }) do redis.call('HINCRBY', KEYS[2], name, ARGV[4]) end
return 1`;

const forgetScript = `${dropFunction}
drop(ARGV[1])`;

interface ResultCopy {
  /** Of the job that it is the result of. */
  id: string;
  client: string;
  bytes: number;
}

export interface ReuseBounds {
  /** Of all copies that have not expired. */
  maxBytes: number;
  /** Of those of one client. */
  maxClientBytes: number;
}

/** What the smallest object takes in a folder, its record in Redis, and its places in these indexes. */
const leastBytes = 4096;
const recordBytes = 2048;

export const copyOf = (
  id: string,
  { client = '' }: UpscaleJobData,
  { output }: UpscaleJobResult,
): ResultCopy => ({ id, client, bytes: Math.max(output.bytes, leastBytes) + recordBytes });

/**
 * For so long the job of a copy is known: as long again as its result lives, from an hour to the day that other jobs are
 * known for. With a day for each, copies that live for a second would leave records without a bound.
 */
export const reuseRecordTtl = (ttlSeconds: number): number =>
  ttlSeconds + Math.min(Math.max(ttlSeconds, 3600), 86_400);

const memberOf = ({ id, bytes, client }: ResultCopy): string => `${id} ${bytes} ${client}`;

/**
 * Notes a copy that is about to be made; once more for the same one changes nothing but its life.
 * @param expiresAt epoch ms
 * @returns false when there is no room for it
 */
export async function admitCopy(
  redis: Redis,
  copy: ResultCopy,
  expiresAt: number,
  { maxBytes, maxClientBytes }: ReuseBounds,
): Promise<boolean> {
  const admitted = await redis.eval(
    admitScript,
    indexKeys.length,
    ...indexKeys,
    Date.now(),
    memberOf(copy),
    expiresAt + longestSweepMs,
    copy.bytes,
    copy.client,
    maxBytes,
    maxClientBytes,
  );
  return admitted === 1;
}

/** The copy has been deleted, or was not made after all. */
export async function forgetCopy(redis: Redis, copy: ResultCopy): Promise<void> {
  await redis.eval(forgetScript, indexKeys.length, ...indexKeys, memberOf(copy));
}
