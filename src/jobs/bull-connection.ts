/** The connections of BullMQ's workers and event streams, which it makes itself, so that they are of our class too. */
import { createIORedisClient, RedisConnection } from 'bullmq';
import { type RedisConnectionOptions, redisOptions, TolerantRedis } from './redis.ts';

// BullMQ copies a connection that it is given, and the copy would be of ioredis's own class: give it options.
RedisConnection.clientFactory = (options) =>
  createIORedisClient(new TolerantRedis(options as RedisConnectionOptions));

/** @throws invalid_config when `url` is no address of a Redis */
export const bullConnection = (url: string): RedisConnectionOptions =>
  redisOptions(url, 'consumer');
