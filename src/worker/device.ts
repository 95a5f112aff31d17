/**
 * A device as the supervisor sees it: runs jobs, is up or not. Behind it one device process after another:
 * a crashed one is replaced with growing delay, a silent or disobedient one is killed, a bloated one is
 * replaced when idle.
 */
import { EventEmitter } from 'node:events';
import type { Logger } from 'pino';
import { AppError, toFailure } from '../errors.ts';
import type { Progress, UpscaleJobData, UpscaleJobResult } from '../jobs/job.ts';
import type { DeviceStatus, ModelSummary } from '../jobs/worker-registry.ts';
import { metrics } from '../metrics.ts';
import { type ChildExit, DeviceChild } from './device-child.ts';
import type { DeviceSettings, FromDevice } from './protocol.ts';

export interface DeviceOptions {
  /** Compiled `device-main.js`. */
  program: string;
  settings: DeviceSettings;
  logger: Logger;
  limits: DeviceLimits;
}

export interface DeviceLimits {
  startMs: number;
  /** Silence after which it counts as hung. */
  hangMs: number;
  /** Time from an abort to SIGKILL: more than a tile takes. */
  abortGraceMs: number;
  maxResidentBytes: number;
  /** First delay before a restart; doubles with each failure in a row. */
  restartDelayMs: number;
}

/** The job was not at fault and did not end: it belongs back in the queue, without losing an attempt. */
export class HandBack extends Error {
  override readonly name = 'HandBack';
}

interface RunningJob {
  resolve: (result: UpscaleJobResult) => void;
  reject: (error: Error) => void;
  onProgress: (progress: Progress) => void;
  /** Why it was told to stop; then this, not the kill that may follow, is how it ended. */
  stopped?: Error;
}

type RestartReason = 'crashed' | 'hung' | 'disobeyed' | 'memory';

const silenceCheckMs = 1000;
const maxRestartDelayMs = 30_000;
/** A process that lived this long was sound: the next restart starts with the first delay again. */
const soundLifeMs = 60_000;

export class Device extends EventEmitter<{ status: [DeviceStatus] }> {
  readonly name: string;
  models: ModelSummary[] = [];
  status: DeviceStatus = 'starting';
  readonly #options: DeviceOptions;
  readonly #logger: Logger;
  readonly #jobs = new Map<string, RunningJob>();
  #child: DeviceChild | undefined;
  #killedFor: RestartReason | undefined;
  #failuresInRow = 0;
  #startedAt = 0;
  #jobsOfThisLife = 0;
  #bloated = false;
  #restartTimer: NodeJS.Timeout | undefined;
  #silenceTimer: NodeJS.Timeout | undefined;
  #silentChecks = 0;
  #accountedAt: number | undefined;

  constructor(options: DeviceOptions) {
    super();
    this.name = options.settings.device;
    this.#options = options;
    this.#logger = options.logger.child({ device: this.name });
    metrics.deviceUp.set({ device: this.name }, 0);
    metrics.deviceBusySeconds.inc({ device: this.name }, 0);
  }

  /** Takes jobs. A bloated process ends those it has and is then replaced. */
  get accepting(): boolean {
    return this.status === 'ready' && !this.#bloated;
  }

  get jobs(): number {
    return this.#jobs.size;
  }

  /** Process id of the present life, for tests and logs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /**
   * Starts the first life.
   * @throws device_unavailable | invalid_bundle when it cannot start; it then is not tried again
   */
  async start(): Promise<void> {
    try {
      await this.#live();
    } catch (error) {
      this.#setStatus('failed');
      throw error;
    }
  }

  /**
   * Runs a job to its end.
   * @param signal aborts it between two tiles; if it does not obey, the process is killed
   * @throws the failure that the process reports; the signal's reason; device_lost; HandBack
   */
  run(
    id: string,
    data: UpscaleJobData,
    signal: AbortSignal,
    onProgress: (progress: Progress) => void,
  ): Promise<UpscaleJobResult> {
    if (signal.aborted) return Promise.reject(signal.reason);
    if (this.status !== 'ready') return Promise.reject(new HandBack());
    this.#accountBusy();
    this.#jobsOfThisLife += 1;
    let grace: NodeJS.Timeout | undefined;
    const stop = (reason: Error) => {
      const job = this.#jobs.get(id);
      if (!job || job.stopped) return;
      job.stopped = reason;
      const failure = toFailure(
        reason instanceof AppError ? reason : new AppError('canceled', reason.message),
      );
      this.#child?.send({ type: 'abort', id, failure });
      grace = setTimeout(() => this.#kill('disobeyed'), this.#options.limits.abortGraceMs);
    };
    const onAbort = () => stop(signal.reason as Error);
    const deadline = setTimeout(() => stop(timeoutError(data.timeoutMs)), data.timeoutMs);
    signal.addEventListener('abort', onAbort);
    return new Promise<UpscaleJobResult>((resolve, reject) => {
      this.#jobs.set(id, { resolve, reject, onProgress });
      metrics.deviceJobs.set({ device: this.name }, this.#jobs.size);
      this.#child?.send({ type: 'run', id, data });
    }).finally(() => {
      clearTimeout(grace);
      clearTimeout(deadline);
      signal.removeEventListener('abort', onAbort);
    });
  }

  /** Ends the process at once; jobs in it are handed back. Resolves when it is gone. */
  async stop(): Promise<void> {
    this.#setStatus('stopped');
    clearTimeout(this.#restartTimer);
    this.#child?.kill();
    await this.#child?.exited;
  }

  /** One life, from fork to ready. Its end is handled in `#onExit`. */
  async #live(): Promise<void> {
    this.#startedAt = performance.now();
    this.#jobsOfThisLife = 0;
    this.#bloated = false;
    this.#killedFor = undefined;
    let unusable: AppError | undefined;
    let onReady = () => {};
    const ready = new Promise<void>((resolve) => {
      onReady = resolve;
    });
    const { program, settings, limits } = this.#options;
    const child = new DeviceChild(program, settings, this.#logger, (message) => {
      if (message.type === 'ready') {
        this.models = message.models;
        onReady();
      } else if (message.type === 'unusable') {
        unusable = new AppError(message.failure.code, message.failure.detail, {
          cause: message.cause,
        });
      } else this.#onMessage(message);
    });
    this.#child = child;
    const tooLong = setTimeout(() => {
      const seconds = limits.startMs / 1000;
      unusable = new AppError(
        'device_unavailable',
        `The device ${this.name} was not ready within ${seconds} s. DEVICE_START_SECONDS allows for more.`,
      );
      child.kill();
    }, limits.startMs);
    const exit = await Promise.race([ready, child.exited]);
    clearTimeout(tooLong);
    if (exit) throw unusable ?? this.#startFailure(exit);
    if (this.status === 'stopped') return;
    this.#watchSilence(child);
    void child.exited.then((end) => this.#onExit(child, end));
    const milliseconds = Math.round(performance.now() - this.#startedAt);
    this.#logger.info({ pid: child.pid, milliseconds }, 'the device is ready');
    this.#setStatus('ready');
  }

  #startFailure({ how, lastLines }: ChildExit): AppError {
    const words = lastLines.length > 0 ? ` Its last words:\n${lastLines.join('\n')}` : '';
    return new AppError(
      'device_unavailable',
      `The process of device ${this.name} ended during its start (${how}).${words}`,
    );
  }

  #onMessage(message: Exclude<FromDevice, { type: 'ready' | 'unusable' }>): void {
    if (message.type === 'heartbeat') return this.#onHeartbeat(message.residentBytes);
    const job = this.#jobs.get(message.id);
    if (!job) return;
    if (message.type === 'progress') return job.onProgress(message.progress);
    if (message.type === 'done') {
      // Told to stop too late: it is done, and whoever stopped it decides what that means.
      this.#end(message.id, () => job.resolve(message.result));
    } else {
      const { code, detail } = message.failure;
      const error = job.stopped ?? new AppError(code, detail, { cause: message.cause });
      this.#end(message.id, () => job.reject(error));
    }
  }

  #onHeartbeat(residentBytes: number): void {
    metrics.deviceResidentBytes.set({ device: this.name }, residentBytes);
    this.#accountBusy();
    // A process that is too large before its first job would be so again: replacing it helps nobody.
    if (residentBytes > this.#options.limits.maxResidentBytes && this.#jobsOfThisLife > 0) {
      this.#bloated = true;
      this.#recycleWhenIdle();
    }
  }

  #recycleWhenIdle(): void {
    if (this.#bloated && this.#jobs.size === 0) this.#kill('memory');
  }

  #end(id: string, settle: () => void): void {
    this.#accountBusy();
    this.#jobs.delete(id);
    metrics.deviceJobs.set({ device: this.name }, this.#jobs.size);
    settle();
    this.#recycleWhenIdle();
  }

  #kill(reason: RestartReason): void {
    if (this.#killedFor || this.status !== 'ready') return;
    this.#killedFor = reason;
    this.#child?.kill();
  }

  #onExit(child: DeviceChild, exit: ChildExit): void {
    if (child !== this.#child) return;
    clearInterval(this.#silenceTimer);
    const reason = this.#killedFor ?? 'crashed';
    this.#accountBusy();
    const jobs = [...this.#jobs.values()];
    this.#jobs.clear();
    metrics.deviceJobs.set({ device: this.name }, 0);
    if (this.status === 'stopped') {
      for (const job of jobs) job.reject(job.stopped ?? new HandBack());
      return;
    }
    metrics.deviceRestarts.inc({ device: this.name, reason });
    const log = { ...exit, reason, jobs: jobs.length };
    if (reason === 'memory') this.#logger.info(log, 'the device process is replaced');
    else this.#logger.error(log, 'the device process ended and is replaced');
    // First the status, so that none of these jobs comes straight back.
    this.#setStatus('restarting');
    for (const job of jobs) job.reject(job.stopped ?? this.#lossOf(reason));
    this.#restart(reason === 'crashed' || reason === 'hung');
  }

  /** Whoever was in the process when another job disobeyed is not at fault. Nobody knows who made it crash. */
  #lossOf(reason: RestartReason): Error {
    if (reason === 'disobeyed' || reason === 'memory') return new HandBack();
    return new AppError(
      'device_lost',
      'The device process stopped during the job, and so it did at every retry. Send the image again; if it fails again, a smaller image may help.',
    );
  }

  #restart(failed: boolean): void {
    if (!failed) this.#failuresInRow = 0;
    else if (performance.now() - this.#startedAt > soundLifeMs) this.#failuresInRow = 1;
    else this.#failuresInRow += 1;
    const { restartDelayMs } = this.#options.limits;
    const delayMs = failed
      ? Math.min(restartDelayMs * 2 ** (this.#failuresInRow - 1), maxRestartDelayMs)
      : 0;
    this.#restartTimer = setTimeout(() => {
      this.#live().catch((error: unknown) => {
        if (this.status === 'stopped') return;
        this.#logger.error({ err: error }, 'the device could not be restarted; trying again');
        this.#restart(true);
      });
    }, delayMs);
  }

  /** Two silent checks in a row, so that a supervisor that was itself suspended hears what was said meanwhile. */
  #watchSilence(child: DeviceChild): void {
    this.#silentChecks = 0;
    clearInterval(this.#silenceTimer);
    this.#silenceTimer = setInterval(() => {
      const silentMs = performance.now() - child.heardAt;
      this.#silentChecks = silentMs > this.#options.limits.hangMs ? this.#silentChecks + 1 : 0;
      if (this.#silentChecks >= 2) this.#kill('hung');
    }, silenceCheckMs);
  }

  #accountBusy(): void {
    const now = performance.now();
    if (this.#accountedAt !== undefined && this.#jobs.size > 0) {
      metrics.deviceBusySeconds.inc({ device: this.name }, (now - this.#accountedAt) / 1000);
    }
    this.#accountedAt = now;
  }

  #setStatus(status: DeviceStatus): void {
    if (this.status === status || this.status === 'stopped') return;
    this.status = status;
    metrics.deviceUp.set({ device: this.name }, status === 'ready' ? 1 : 0);
    this.emit('status', status);
  }
}

function timeoutError(timeoutMs: number): AppError {
  return new AppError(
    'job_timeout',
    `The job did not finish within ${timeoutMs / 1000} s. A smaller image or scale takes less time.`,
  );
}
