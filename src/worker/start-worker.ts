/** Starts a worker in this process: device processes, supervisor, registry. `pisa-serve worker` and `serve` call it. */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import { pixelLimits } from '../jobs/output-size.ts';
import { connectRedis } from '../jobs/redis.ts';
import { checkRedis } from '../jobs/redis-check.ts';
import {
  reportIntervalMs,
  reportWorker,
  type WorkerReport,
  withdrawWorker,
} from '../jobs/worker-registry.ts';
import { openStore, type StoreLocation } from '../storage/open-store.ts';
import { within } from '../waits.ts';
import { modelArrivalMs } from './absent-model.ts';
import { Device, type DeviceLimits } from './device.ts';
import { checkModelMemory, deviceMemory, modelBudget } from './device-memory.ts';
import { DevicePool } from './device-pool.ts';
import { whenAllLost } from './lost-devices.ts';
import { type LockTimes, Supervisor } from './supervisor.ts';

export interface WorkerOptions {
  config: Config;
  /** REDIS_URL, or the private Redis of `serve`. */
  redisUrl: string;
  store: StoreLocation;
  logger: Logger;
  /** Times that are right for production and too long for a test. */
  times?: Partial<WorkerTimes>;
  /** Compiled `device-main.js`. Default: that of `device-process`. */
  deviceProgram?: string;
}

interface WorkerTimes extends LockTimes, Pick<DeviceLimits, 'restartDelayMs'> {
  /** Absent: DEVICE_HANG_SECONDS, which is more than the longest run of one tile. */
  abortGraceMs?: number;
}

export interface RunningWorker {
  /**
   * Resolves when every device is warmed up and jobs are being taken. Rejects when a device cannot start
   * (as `Device.start`): the command then ends the process with that text.
   */
  readonly ready: Promise<void>;
  /** Rejects with device_unavailable when it is of no use any more, see lost-devices.ts: the command then ends likewise. */
  readonly lost: Promise<never>;
  /** Takes no more jobs, lets running ones finish for SHUTDOWN_GRACE_SECONDS, hands the rest back, ends the devices. */
  close(): Promise<void>;
  state(): WorkerReport;
}

const defaultTimes: WorkerTimes = {
  // BullMQ's own defaults: the supervisor's event loop is never blocked for nearly as long.
  lockMs: 30_000,
  stalledCheckMs: 30_000,
  restartDelayMs: 500,
};

/** For handing jobs back and saying good-bye to Redis, after the grace. */
const closeLimitMs = 2500;

export async function startWorker(options: WorkerOptions): Promise<RunningWorker> {
  const { config, redisUrl, logger } = options;
  checkModelMemory(config.DEVICES, config);
  const times = { ...defaultTimes, ...options.times };
  const onError = (error: unknown) => logger.warn({ err: error }, 'worker');
  const redis = connectRedis(redisUrl, 'consumer', onError);
  const store = openStore(options.store, { role: 'consumer', onError });
  const devices = await Promise.all(
    config.DEVICES.map((name) => createDevice(name, options, times)),
  );
  const pool = new DevicePool(devices, config.JOBS_PER_DEVICE);
  const keepMaxBytes = config.KEEP_MAX_MEGABYTES * 1_000_000;
  const supervisor = new Supervisor({
    redisUrl,
    redis,
    store,
    pool,
    logger,
    locks: times,
    keepMaxBytes,
    modelArrivalMs: modelArrivalMs(config),
    jobTimeoutMs: config.JOB_TIMEOUT_SECONDS * 1000,
  });
  const id = randomUUID();

  const state = (): WorkerReport => ({
    id,
    devices: devices.map(({ name, status, jobs }) => ({ name, status, jobs })),
    models: pool.models,
    unopened: pool.unopened,
    slots: devices.length * config.JOBS_PER_DEVICE,
  });
  const reporter = startReporter(async () => {
    for (const { unopened } of devices) void unopened.lookAgain();
    await reportWorker(redis, state());
    await supervisor.obeyCancelRecords();
  }, onError);
  for (const device of devices) device.on('status', reporter.now).on('models', reporter.now);

  const start = async () => {
    await Promise.all([checkRedis(redis), ...devices.map((device) => device.start())]);
    await supervisor.start();
    await reporter.now();
  };
  const ready = start();
  // Whoever started us looks at `ready`; until then a rejection must not end the process.
  ready.catch(() => {});

  let closed: Promise<void> | undefined;
  const close = async () => {
    reporter.stop();
    // At once: a worker that takes no jobs must not make the service look ready.
    const withdrawn = within(withdrawWorker(redis, id), closeLimitMs).catch(onError);
    await supervisor.drain(config.SHUTDOWN_GRACE_SECONDS * 1000);
    await Promise.all(devices.map((device) => device.stop()));
    await supervisor.close(closeLimitMs);
    await withdrawn;
    redis.disconnect();
    await store.close();
  };
  return {
    ready,
    lost: whenAllLost(devices, config.DEVICE_START_SECONDS * 1000),
    close: () => {
      closed ??= close();
      return closed;
    },
    state,
  };
}

async function createDevice(
  name: string,
  options: WorkerOptions,
  times: WorkerTimes,
): Promise<Device> {
  const { config, logger } = options;
  const memoryBytes = await deviceMemory(name, config);
  if (memoryBytes === undefined && name.startsWith('cuda:')) {
    logger.warn(
      { device: name },
      'nvidia-smi does not tell how much memory the device has: its tiles are those of a bundle for no device in particular. DEVICE_MEMORY_GIGABYTES tells it.',
    );
  }
  return new Device({
    program:
      options.deviceProgram ??
      fileURLToPath(new URL('./device-process/device-main.js', import.meta.url)),
    logger,
    settings: {
      device: name,
      threads: config.DEVICE_THREADS,
      modelsDir: config.MODELS_DIR,
      defaultModel: config.MODEL,
      preload: config.PRELOAD_MODELS,
      memoryBytes,
      modelBudgetBytes: modelBudget(memoryBytes, config),
      store: options.store,
      limits: pixelLimits(config),
      keepMaxBytes: 1_000_000 * Math.min(config.KEEP_MAX_JOB_MEGABYTES, config.KEEP_MAX_MEGABYTES),
    },
    limits: deviceLimits(config, times),
  });
}

type LimitSettings = Pick<
  Config,
  'DEVICE_START_SECONDS' | 'DEVICE_HANG_SECONDS' | 'DEVICE_MAX_RSS_MEGABYTES'
>;

/** A start is the load of a model, so what a stopped job had begun takes no longer. */
export function deviceLimits(
  { DEVICE_START_SECONDS, DEVICE_HANG_SECONDS, DEVICE_MAX_RSS_MEGABYTES }: LimitSettings,
  { abortGraceMs, restartDelayMs }: Pick<WorkerTimes, 'abortGraceMs' | 'restartDelayMs'>,
): DeviceLimits {
  return {
    startMs: DEVICE_START_SECONDS * 1000,
    hangMs: DEVICE_HANG_SECONDS * 1000,
    abortGraceMs: abortGraceMs ?? DEVICE_HANG_SECONDS * 1000,
    settleMs: DEVICE_START_SECONDS * 1000,
    maxResidentBytes: DEVICE_MAX_RSS_MEGABYTES * 1_000_000,
    restartDelayMs,
  };
}

/** Reports at an interval and on demand, never two at once: with Redis away they would pile up. */
function startReporter(report: () => Promise<void>, onError: (error: unknown) => void) {
  let running: Promise<void> | undefined;
  let again = false;
  let stopped = false;
  const now = async (): Promise<void> => {
    if (stopped) return;
    if (running) {
      again = true;
      return running;
    }
    do {
      again = false;
      running = report().catch(onError);
      await running;
      running = undefined;
    } while (again && !stopped);
  };
  const timer = setInterval(now, reportIntervalMs);
  void now();
  return {
    now,
    stop: () => {
      stopped = true;
      clearInterval(timer);
    },
  };
}
