/** The real API on a real port over a real Redis, for one test file; what it logs is kept for the test to read. */
import { type Logger, pino } from 'pino';
import { longestTtlSeconds } from '../../src/api/job-options.ts';
import { type ApiServer, startServer } from '../../src/api/server.ts';
import { type Config, loadConfig } from '../../src/config.ts';
import { UpscaleQueue } from '../../src/jobs/queue.ts';
import type { ObjectStore } from '../../src/storage/object-store.ts';
import { openStore, storeLocation } from '../../src/storage/open-store.ts';
import { startRedis, type TestRedis } from './redis.ts';

interface LogLine {
  /** pino's numbers: 30 info, 40 warn, 50 error. */
  level: number;
  msg: string;
  [field: string]: unknown;
}

export interface TestApi {
  readonly url: string;
  readonly port: number;
  readonly config: Config;
  readonly redis: TestRedis;
  readonly queue: UpscaleQueue;
  readonly store: ObjectStore;
  readonly server: ApiServer;
  /** Every line logged so far, from `debug` up. */
  readonly log: LogLine[];
  /** What writes to `log`. */
  readonly logger: Logger;
  stop(): Promise<void>;
}

export async function startApi(env: Record<string, string> = {}): Promise<TestApi> {
  const redis = await startRedis();
  const config = loadConfig({ PORT: '0', REDIS_URL: redis.url, STORAGE: 'redis', ...env });
  const log: LogLine[] = [];
  const logger = pino(
    { level: 'debug' },
    { write: (line: string) => log.push(JSON.parse(line) as LogLine) },
  );
  const store = openStore(storeLocation(config, redis.url), { role: 'producer' });
  const queue = new UpscaleQueue({
    redisUrl: redis.url,
    store,
    resultTtlSeconds: longestTtlSeconds(config),
  });
  await queue.ready(10_000);
  const server = await startServer({ config, queue, store, logger });
  return {
    url: server.url,
    port: server.port,
    config,
    redis,
    queue,
    store,
    server,
    log,
    logger,
    stop: async () => {
      await server.close();
      await queue.close();
      await store.close();
      await redis.stop();
    },
  };
}
