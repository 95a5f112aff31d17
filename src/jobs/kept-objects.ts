/**
 * What is kept after a job so that other dials cost less: its upload, maps, latents and residuals. Redis holds
 * an index of these objects, not the objects: which were used when, how large they are and when they expire. Over
 * the size limit the least recently used go first; every object has a time to live of its own besides, so one
 * that never got into the index (its worker was killed) ends by itself.
 */
import type { Redis } from 'ioredis';
import { metrics } from '../metrics.ts';
import { deleteObjects, type ObjectStore } from '../storage/object-store.ts';
import type { KeptObject } from './job.ts';

/** Member = storage key. Scores: last use, expiry, both epoch ms. Hash: bytes. Text: their sum. */
const indexKeys = ['pisa:kept:used', 'pisa:kept:expires', 'pisa:kept:bytes', 'pisa:kept:total'];

/**
 * Everything else can be computed again from an upload, and an upload is small beside it: it counts as used
 * this much later.
 */
const inputBonusMs = 3_600_000;

/** ZREM comes first: a script that has removed something may count, too, in a Redis whose memory is full. */
const dropFunction = `
local function drop(member)
  redis.call('ZREM', KEYS[1], member)
  redis.call('ZREM', KEYS[2], member)
  local bytes = redis.call('HGET', KEYS[3], member)
  if bytes then redis.call('DECRBY', KEYS[4], bytes) end
  redis.call('HDEL', KEYS[3], member)
end`;

/**
 * ARGV: now, limit, the object without which the others are of no use (or nothing), then for each object: key, last
 * use, bytes, expiry. Returns the keys that have left the index.
 */
const useScript = `${dropFunction}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])) do drop(member) end
if ARGV[3] ~= '' and not redis.call('ZSCORE', KEYS[1], ARGV[3]) then
  local useless = {}
  for i = 4, #ARGV, 4 do
    drop(ARGV[i])
    table.insert(useless, ARGV[i])
  end
  return useless
end
for i = 4, #ARGV, 4 do
  drop(ARGV[i])
  redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i])
  redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 2])
  redis.call('INCRBY', KEYS[4], ARGV[i + 2])
  redis.call('ZADD', KEYS[2], ARGV[i + 3], ARGV[i])
end
local evicted = {}
while tonumber(redis.call('GET', KEYS[4]) or '0') > tonumber(ARGV[2]) do
  local oldest = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
  if not oldest then break end
  drop(oldest)
  table.insert(evicted, oldest)
end
return evicted`;

const forgetScript = `${dropFunction}
for _, member in ipairs(ARGV) do drop(member) end`;

/** Reads alone: a Redis that takes no writes, being full, is looked at all the same. ARGV: now. */
const sumScript = `
local total = tonumber(redis.call('GET', KEYS[4]) or '0')
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[1])) do
  total = total - tonumber(redis.call('HGET', KEYS[3], member) or '0')
end
return total`;

interface ObjectOwner {
  redis: Redis;
  store: ObjectStore;
}

interface KeptBounds {
  /** Of all that is kept. */
  maxBytes: number;
  /** See `useKept`. */
  source?: string;
}

/** Notes them as `useKept` does, and deletes what had to go. */
export async function keepObjects(
  { redis, store }: ObjectOwner,
  objects: readonly KeptObject[],
  bounds: KeptBounds,
): Promise<void> {
  const evicted = await useKept(redis, objects, bounds);
  metrics.keptEvictions.inc(evicted.length);
  await deleteObjects(store, evicted);
}

/**
 * Notes that these objects are there and were used now.
 * @param source the upload of another job that they belong to. Where that has gone meanwhile, by a DELETE or for newer
 *   ones, they go too: counting what nobody can use would push out what somebody can
 * @returns storage keys that have left the index: the caller deletes the objects
 */
export async function useKept(
  redis: Redis,
  objects: readonly KeptObject[],
  { maxBytes, source = '' }: KeptBounds,
): Promise<string[]> {
  const now = Date.now();
  const facts = objects.flatMap(({ key, bytes, expiresAt }) => [
    key,
    now + (key.startsWith('input/') ? inputBonusMs : 0),
    bytes,
    expiresAt,
  ]);
  return (await redis.eval(
    useScript,
    indexKeys.length,
    ...indexKeys,
    now,
    maxBytes,
    source,
    ...facts,
  )) as string[];
}

/**
 * Deletes objects of a job, kept or not. They leave the index before: a job with other dials that keeps something of
 * them from now on finds its source gone.
 * @throws what the store throws for one of them, when all have been tried
 */
export async function dropObjects(
  { redis, store }: ObjectOwner,
  keys: readonly string[],
): Promise<void> {
  await forgetKept(redis, keys);
  await deleteObjects(store, keys);
}

/** The objects are deleted, or about to be. */
export async function forgetKept(redis: Redis, keys: readonly string[]): Promise<void> {
  await redis.eval(forgetScript, indexKeys.length, ...indexKeys, ...keys);
}

/** @returns bytes of all objects that are kept now: what has expired leaves the index only at the next use */
export async function sumKept(redis: Redis): Promise<number> {
  return (await redis.eval(sumScript, indexKeys.length, ...indexKeys, Date.now())) as number;
}
