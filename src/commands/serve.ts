/** The long-running commands: `serve`, `api`, `worker`. How the parts are put together, started and ended. */
import { existsSync } from 'node:fs';
import path from 'node:path';
import type { Logger } from 'pino';
import { longestTtlSeconds } from '../api/job-options.ts';
import { type ApiServer, startServer } from '../api/server.ts';
import { type Config, otlpProtocol } from '../config.ts';
import { AppError } from '../errors.ts';
import { UpscaleQueue } from '../jobs/queue.ts';
import { explainForbidden } from '../jobs/redis-faults.ts';
import { createLogger } from '../logging/logger.ts';
import { registry } from '../metrics.ts';
import { packageRoot, software, version } from '../package-info.ts';
import { openStore, type StoreLocation, storeLocation } from '../storage/open-store.ts';
import { startTracing } from '../tracing/tracing.ts';
import { within } from '../waits.ts';
import { Deliverer } from '../webhooks/deliverer.ts';
import { startPodDeletionCost } from '../worker/pod-deletion-cost.ts';
import { startWorker } from '../worker/start-worker.ts';
import { fileField, shellQuoted } from './curl-line.ts';
import { startHealthServer } from './health-server.ts';
import { startPrivateRedis } from './private-redis.ts';
import { closeAll, untilSignal } from './until-signal.ts';

type Closer = () => Promise<unknown>;

interface Started {
  /** Rejects when it is of no use any more. */
  readonly lost?: Promise<never>;
}

const redisStartLimitMs = 15_000;
/** A collector that is away must not hold up the end. */
const tracesLimitMs = 2000;

/** Api and worker in one process, with a private Redis unless REDIS_URL is set. Resolves after shutdown. */
export async function serve(config: Config): Promise<void> {
  const logger = createLogger(config, 'serve');
  await run(logger, config, 'pisa-serve', async (closers) => {
    const isPrivate = config.REDIS_URL === '';
    const redisUrl = isPrivate ? await ownRedis(config, logger, closers) : config.REDIS_URL;
    const store = storeLocation(config, redisUrl, isPrivate);
    const worker = await startWorker({ config, redisUrl, store, logger });
    // Closers run in reverse: api and worker, then Redis. This one is for an api that does not start.
    closers.push(() => worker.close());
    const api = await startApi(config, redisUrl, store, logger, closers);
    // Transfers and jobs under way have the same grace: one after the other, they would take twice as long.
    closers.push(async () => {
      await api.leave();
      await Promise.all([api.close(), worker.close()]);
    });
    await worker.ready;
    announce(api.url, config);
    return worker;
  });
}

/** The HTTP API alone. */
export async function serveApi(config: Config): Promise<void> {
  const logger = createLogger(config, 'api');
  await run(logger, config, 'pisa-serve-api', async (closers) => {
    const redisUrl = sharedRedis(config, 'api');
    const location = storeLocation(config, redisUrl);
    const api = await startApi(config, redisUrl, location, logger, closers);
    logger.info({ url: api.url }, 'api is listening');
    return {};
  });
}

/** A worker alone, with its probes and metrics on WORKER_PORT. */
export async function serveWorker(config: Config): Promise<void> {
  const logger = createLogger(config, 'worker');
  await run(logger, config, 'pisa-serve-worker', async (closers) => {
    const redisUrl = sharedRedis(config, 'worker');
    const store = storeLocation(config, redisUrl);
    const worker = await startWorker({ config, redisUrl, store, logger });
    closers.push(() => worker.close());
    const health = await listening('WORKER_PORT', config.WORKER_PORT, () =>
      startHealthServer({
        host: config.HOST,
        port: config.WORKER_PORT,
        registry,
        isReady: () => worker.state().devices.some(({ status }) => status === 'ready'),
      }),
    );
    // Last of all: probes and metrics are there while running jobs are finished.
    closers.unshift(() => health.close());
    if (config.KUBERNETES_POD !== '') {
      const jobs = () => worker.state().devices.reduce((sum, device) => sum + device.jobs, 0);
      const cost = startPodDeletionCost({ config, logger, jobs });
      closers.push(async () => cost.stop());
    }
    await worker.ready;
    logger.info({ devices: config.DEVICES, probes: health.port }, 'worker is ready');
    return worker;
  });
}

/** Starts, waits for a signal, or for what was started to be `lost`, closes in reverse order. A start that fails closes what had started. */
async function run(
  logger: Logger,
  config: Config,
  serviceName: string,
  start: (closers: Closer[]) => Promise<Started>,
): Promise<void> {
  // Last of all, so that what ends in the end is told.
  const closers: Closer[] = [await traced(serviceName, logger)];
  const { SHUTDOWN_DELAY_SECONDS, SHUTDOWN_GRACE_SECONDS } = config;
  const stopped = untilSignal(logger, SHUTDOWN_DELAY_SECONDS + SHUTDOWN_GRACE_SECONDS);
  const started = start(closers).catch((error: unknown) => {
    throw explainForbidden(error);
  });
  try {
    // A signal during the start ends it too.
    const first = await Promise.race([started, stopped]);
    if (first !== 'signal') await Promise.race([stopped, first.lost ?? stopped]);
  } finally {
    await closeAll(logger, closers.reverse());
  }
  // What the libraries leave open (timers, sockets) may not hold an ended service.
  process.exit(0);
}

/** @returns what ends the traces; nothing to do while they are off */
async function traced(serviceName: string, logger: Logger): Promise<Closer> {
  const protocol = otlpProtocol();
  if (!protocol) return async () => {};
  const stop = await startTracing({ protocol, serviceName, serviceVersion: version, logger });
  return () => within(stop(), tracesLimitMs);
}

async function ownRedis(config: Config, logger: Logger, closers: Closer[]): Promise<string> {
  const redis = await startPrivateRedis(config.DATA_DIR, logger);
  closers.push(() => redis.stop());
  return redis.url;
}

function sharedRedis(config: Config, command: string): string {
  if (config.REDIS_URL !== '') return config.REDIS_URL;
  throw new AppError(
    'invalid_config',
    `\`pisa-serve ${command}\` shares a Redis with its peers: set REDIS_URL to it. For a service in one piece run \`pisa-serve serve\`.`,
  );
}

async function startApi(
  config: Config,
  redisUrl: string,
  location: StoreLocation,
  logger: Logger,
  closers: Closer[],
): Promise<ApiServer> {
  const store = openStore(location, {
    role: 'producer',
    onError: (error) => logger.warn({ err: error }, 'storage error'),
  });
  closers.push(() => store.close());
  const queue = new UpscaleQueue({
    redisUrl,
    store,
    resultTtlSeconds: longestTtlSeconds(config),
    onError: (error) => logger.warn({ err: error }, 'queue connection error'),
  });
  closers.push(() => queue.close());
  // Not for ever: an api may start before its Redis, and says so on /readyz until then.
  await queue.ready(redisStartLimitMs).catch((error: unknown) => {
    if (error instanceof AppError && error.code === 'invalid_config') throw error;
    logger.warn({ err: error }, 'Redis does not answer yet; starting all the same');
  });
  if (config.WEBHOOK_SECRET.length > 0) {
    const deliverer = new Deliverer({ config, redisUrl, queue, logger });
    closers.push(() => deliverer.close());
  }
  const api = await listening('PORT', config.PORT, () =>
    startServer({ config, queue, store, logger }),
  );
  closers.push(() => api.close());
  return api;
}

/** @throws not_ready with the setting to change, when the address is taken or not ours */
async function listening<T>(setting: string, port: number, listen: () => Promise<T>): Promise<T> {
  try {
    return await listen();
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EADDRINUSE') {
      throw new AppError(
        'not_ready',
        `Port ${port} is taken by another program. Stop that one, or set ${setting} to another port.`,
      );
    }
    if (code === 'EACCES' || code === 'EADDRNOTAVAIL') {
      throw new AppError(
        'not_ready',
        `Cannot listen on port ${port} (${code}). Set ${setting} to a port, and HOST to an address, of this machine.`,
      );
    }
    throw error;
  }
}

/**
 * To stdout, for the person who started it: where the service is, and a line that works as printed, with a key in $KEY
 * where keys are asked for.
 */
function announce(url: string, config: Config): void {
  const sample = path.join(packageRoot, 'test/photos/cat-128.jpg');
  const photo = existsSync(sample) ? sample : 'photo.jpg';
  const asksForKeys = config.API_KEYS_FILE !== '';
  const header = asksForKeys ? '-H "Authorization: Bearer $KEY" ' : '';
  const origin = asksForKeys
    ? `\n$KEY is a key that \`pisa-serve keys create\` has printed (docs/api-keys.md).\n`
    : '';
  process.stdout.write(`
${software} is ready: ${url} (model ${config.MODEL}, ${config.DEVICES.join(', ')}). API: ${url}/docs

Open it in a browser, or try in another terminal:
  curl -f ${header}-F ${shellQuoted(fileField('image', photo))} -H 'Accept: image/png' '${url}/upscale?pix=1&sem=1' -o cat-512.png
${origin}
Ctrl-C ends it; jobs that run get up to ${config.SHUTDOWN_GRACE_SECONDS} s to finish. A second Ctrl-C ends it at once.
`);
}
