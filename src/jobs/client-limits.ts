/**
 * Limits of a client, counted in Redis, so that they hold over all instances of the api: requests in a minute, and
 * jobs that have not ended. Each is one script, so that requests that come together are counted one by one.
 */
import type { Redis } from 'ioredis';
import { AppError } from '../errors.ts';
import { cancelRecords } from './cancellation.ts';
import { upscaleQueueName } from './job.ts';
import { orUnavailable } from './redis-faults.ts';

/** So much of a minute's requests may come at once. */
const burstShare = 1 / 6;

/**
 * The generic cell rate algorithm: one number, the time at which the client has used up what it was given.
 * KEYS[1]; ARGV: milliseconds that a request costs, requests at once. Returns the milliseconds to wait, or 0.
 */
const takeScript = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local cost = tonumber(ARGV[1])
local spent = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local allowedAt = spent - cost * (tonumber(ARGV[2]) - 1)
if allowedAt > now then return math.ceil(allowedAt - now) end
local next = spent + cost
redis.call('SET', KEYS[1], string.format('%.3f', next), 'PX', math.ceil(next - now) + 1000)
return 0
`;

/** A job whose id is noted but which is not in the queue is being submitted, or never came: then for how long. */
const submittingMs = 60_000;

/**
 * Forgets the jobs that have ended, whoever ended them and however, and counts the others.
 * KEYS[1]; ARGV: prefix of BullMQ's job keys, submittingMs, limit, id to add ('' for none), prefix of the cancel
 * records. Returns 1 if within the limit, else 0.
 */
const reserveScript = `
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local noted = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
local open = 0
for i = 1, #noted, 2 do
  local id = noted[i]
  local ended
  if redis.call('EXISTS', ARGV[5] .. id) == 1 then ended = true
  elseif redis.call('EXISTS', ARGV[1] .. id) == 1 then
    ended = redis.call('HEXISTS', ARGV[1] .. id, 'finishedOn') == 1
  else ended = tonumber(noted[i + 1]) < now - tonumber(ARGV[2]) end
  if ended then redis.call('ZREM', KEYS[1], id)
  elseif id == ARGV[4] then return 1
  else open = open + 1 end
end
if open >= tonumber(ARGV[3]) then return 0 end
if ARGV[4] ~= '' then
  redis.call('ZADD', KEYS[1], now, ARGV[4])
  redis.call('EXPIRE', KEYS[1], 2592000)
end
return 1
`;

const retryAfterJobSeconds = 2;

export class ClientLimits {
  readonly #redis: Redis;

  constructor(redis: Redis) {
    this.#redis = redis;
  }

  /**
   * @param perMinute 0: no limit
   * @throws rate_limited | redis_unavailable
   */
  async takeRequest(client: string, perMinute: number): Promise<void> {
    if (perMinute === 0) return;
    const atOnce = Math.max(1, Math.floor(perMinute * burstShare));
    const waitMs = await orUnavailable(() =>
      this.#redis.eval(takeScript, 1, `pisa:rate:${client}`, 60_000 / perMinute, atOnce),
    );
    if (waitMs === 0) return;
    throw new AppError(
      'rate_limited',
      `This client may send ${perMinute} requests in a minute, ${atOnce} of them at once.`,
      { retryAfterSeconds: Math.ceil(Number(waitMs) / 1000) },
    );
  }

  /** Before an upload is read. @throws too_many_jobs | redis_unavailable */
  async checkJobs(client: string, limit: number): Promise<void> {
    await this.#reserve(client, limit, '');
  }

  /**
   * Notes a job, which from now on counts until it has ended.
   * @param limit of jobs that have not ended. 0: no limit, and nothing is noted
   * @throws too_many_jobs | redis_unavailable
   */
  async reserveJob(client: string, limit: number, id: string): Promise<void> {
    await this.#reserve(client, limit, id);
  }

  /** For a job that did not come into the queue. */
  async releaseJob(client: string, id: string): Promise<void> {
    await this.#redis.zrem(jobsKey(client), id);
  }

  async #reserve(client: string, limit: number, id: string): Promise<void> {
    if (limit === 0) return;
    const prefix = `bull:${upscaleQueueName}:`;
    const canceled = cancelRecords.prefix;
    const within = await orUnavailable(() =>
      this.#redis.eval(
        reserveScript,
        1,
        jobsKey(client),
        prefix,
        submittingMs,
        limit,
        id,
        canceled,
      ),
    );
    if (within === 1) return;
    throw new AppError(
      'too_many_jobs',
      `This client may have ${limit} jobs that have not ended. Wait for one of them, or cancel one.`,
      { retryAfterSeconds: retryAfterJobSeconds },
    );
  }
}

const jobsKey = (client: string): string => `pisa:jobs:${client}`;
