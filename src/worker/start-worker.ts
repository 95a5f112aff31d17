/** Starts a worker in this process: device processes, supervisor, registry. `pisa-serve worker` and `serve` call it. */
import type { Logger } from 'pino';
import type { Config } from '../config.ts';
import type { WorkerReport } from '../jobs/worker-registry.ts';
import type { StoreLocation } from '../storage/open-store.ts';

export interface WorkerOptions {
  config: Config;
  /** REDIS_URL, or the private Redis of `serve`. */
  redisUrl: string;
  store: StoreLocation;
  logger: Logger;
}

export interface RunningWorker {
  /**
   * Resolves when every device is warmed up and jobs are being taken. Rejects when a device cannot start
   * (`device_unavailable`, `invalid_bundle`): the command then ends the process with that text.
   */
  readonly ready: Promise<void>;
  /** Takes no more jobs, lets running ones finish for SHUTDOWN_GRACE_SECONDS, hands the rest back, ends the devices. */
  close(): Promise<void>;
  state(): WorkerReport;
}

export declare function startWorker(options: WorkerOptions): Promise<RunningWorker>;
