/**
 * A device as the supervisor sees it: runs jobs, is up or not. Behind it one device process after another:
 * a crashed one is replaced with growing delay, as is one whose device is broken; a silent or disobedient one is
 * killed, a bloated one is replaced when idle.
 */
import { EventEmitter } from 'node:events';
import type { Logger } from 'pino';
import { AppError, type ErrorCode, toAppError, toFailure } from '../errors.ts';
import type { Progress, UpscaleJobData } from '../jobs/job.ts';
import type { DeviceStatus, ModelSummary } from '../jobs/worker-registry.ts';
import { metrics } from '../metrics.ts';
import { type ChildExit, DeviceChild, type MessageOfRun } from './device-child.ts';
import { DeviceJobs, type DeviceRun } from './device-jobs.ts';
import { DeviceModels } from './device-models.ts';
import { HandBack } from './hand-back.ts';
import { countFromZero } from './observe-jobs.ts';
import type { DeviceSettings } from './protocol.ts';
import { RestartDelay } from './restart-delay.ts';
import { isFailure, lossOf, type RestartReason, restartReasons } from './restart-reasons.ts';
import { SilenceWatch } from './silence-watch.ts';
import { UnopenedModels } from './unopened-models.ts';

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
  /** Time from an abort to the end of the job: more than a tile takes. Then SIGKILL. */
  abortGraceMs: number;
  /** Time from there until nothing of the run goes on: more than loading a model takes. Then SIGKILL. */
  settleMs: number;
  maxResidentBytes: number;
  /** First delay before a restart; doubles with each failure in a row. */
  restartDelayMs: number;
}

/**
 * Emits `status` also when it takes no more jobs, and whenever one of those ends that it has until it is replaced; `models`
 * when one of its models turns out not to open, or may open again; `failedStart` when it could not be started again.
 */
export class Device extends EventEmitter<{
  status: [DeviceStatus];
  models: [];
  failedStart: [AppError];
}> {
  readonly name: string;
  /** Also while it warms up. */
  models: ModelSummary[] = [];
  /** Those of them that it could not open. */
  readonly unopened: UnopenedModels;
  status: DeviceStatus = 'starting';
  /** When it last ceased to be ready, or was made, in `performance.now()` milliseconds. */
  lastReadyAt = performance.now();
  readonly #options: DeviceOptions;
  readonly #logger: Logger;
  readonly #jobs: DeviceJobs;
  readonly #loadedModels: DeviceModels;
  readonly #restartDelay: RestartDelay;
  readonly #silence = new SilenceWatch();
  #child: DeviceChild | undefined;
  #killedFor: RestartReason | undefined;
  #startedAt = 0;
  #jobsOfThisLife = 0;
  #lastRun = 0;
  #bloated = false;
  #restartTimer: NodeJS.Timeout | undefined;

  constructor(options: DeviceOptions) {
    super();
    this.name = options.settings.device;
    this.#options = options;
    this.#logger = options.logger.child({ device: this.name });
    this.#jobs = new DeviceJobs(this.name);
    this.#loadedModels = new DeviceModels(this.name, this.#logger);
    this.unopened = new UnopenedModels({
      modelsDir: options.settings.modelsDir,
      logger: this.#logger,
      onChange: () => this.emit('models'),
    });
    this.#restartDelay = new RestartDelay(options.limits.restartDelayMs);
    metrics.deviceUp.set({ device: this.name }, 0);
    // From 0 on, so that the first one is an increase.
    for (const reason of restartReasons) {
      metrics.deviceRestarts.inc({ device: this.name, reason }, 0);
    }
  }

  /** Takes jobs. A bloated process ends those it has and is then replaced; one that was killed may not have ended yet. */
  get accepting(): boolean {
    return this.#isAlive && !this.#bloated;
  }

  get #isAlive(): boolean {
    return this.status === 'ready' && !this.#killedFor;
  }

  get jobs(): number {
    return this.#jobs.size;
  }

  /**
   * Starts the first life.
   * @throws device_unavailable | out_of_device_memory | model_too_large | invalid_bundle when it cannot start; it then is
   *   not tried again
   */
  async start(): Promise<void> {
    try {
      await this.#live();
    } catch (error) {
      // Of several devices whoever waits hears of one; and one that was stopped meanwhile did not fail.
      if (this.status !== 'stopped') this.#logFailedStart(error, 'the device cannot start');
      this.#setStatus('failed');
      throw error;
    }
  }

  /**
   * Runs a job to its end.
   * @param signal ends it as soon as the process has a moment, at the latest after a tile. What it was in the middle of
   *   goes on. If it does not obey, or never comes to an end, the process is killed.
   */
  run(
    id: string,
    data: UpscaleJobData,
    signal: AbortSignal,
    onProgress: (progress: Progress) => void,
  ): DeviceRun {
    if (signal.aborted) return refused(signal.reason);
    if (!this.#isAlive) return refused(new HandBack());
    this.#jobsOfThisLife += 1;
    this.#lastRun += 1;
    const run = this.#lastRun;
    const { abortGraceMs, settleMs } = this.#options.limits;
    let patience: NodeJS.Timeout | undefined;
    const killAfter = (milliseconds: number) => {
      clearTimeout(patience);
      patience = setTimeout(() => this.#kill('disobeyed'), milliseconds);
    };
    const stop = (reason: Error) => {
      const job = this.#jobs.get(run);
      if (!job || job.stopped) return;
      job.stopped = reason;
      const failure = toFailure(
        reason instanceof AppError ? reason : new AppError('canceled', reason.message),
      );
      this.#child?.send({ type: 'abort', run, failure });
      killAfter(abortGraceMs);
    };
    const onAbort = () => stop(signal.reason as Error);
    const deadline = setTimeout(() => stop(timeoutError(data.timeoutMs)), data.timeoutMs);
    signal.addEventListener('abort', onAbort);
    const { result: ended, over } = this.#jobs.add(run, onProgress);
    this.#child?.send({ type: 'run', run, id, data });
    const result = ended.finally(() => {
      clearTimeout(deadline);
      signal.removeEventListener('abort', onAbort);
      killAfter(settleMs);
    });
    void Promise.allSettled([result, over]).then(() => clearTimeout(patience));
    return { result, over };
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
    const { program, settings, limits } = this.#options;
    const child = new DeviceChild({
      program,
      settings,
      startMs: limits.startMs,
      logger: this.#logger,
      onMessage: (message) => this.#onMessage(message),
    });
    this.#child = child;
    // However it ends, and before anybody hears of the next one's models.
    void child.exited.then(() => this.#loadedModels.clear());
    await child.ready;
    for (const { name } of this.models) countFromZero(name);
    if (this.status === 'stopped') return;
    this.#silence.start(
      () => child.heardAt,
      limits.hangMs,
      () => this.#kill('hung'),
    );
    void child.exited.then((end) => this.#onExit(child, end));
    const milliseconds = Math.round(performance.now() - this.#startedAt);
    this.#logger.info({ devicePid: child.pid, milliseconds }, 'the device is ready');
    this.#setStatus('ready');
  }

  #onMessage(message: MessageOfRun): void {
    if (message.type === 'heartbeat') {
      this.#onHeartbeat(message.residentBytes);
      return;
    }
    if (message.type === 'models') {
      this.models = message.models;
      return;
    }
    if (message.type === 'model') {
      this.#loadedModels.note(message.change);
      if (message.change.bytes > 0) this.unopened.forget(message.change.model);
      return;
    }
    if (message.type === 'unopened') {
      this.unopened.note(message.unopened);
      return;
    }
    if (message.type === 'log') {
      this.#logger.debug({ devicePid: this.#child?.pid, ...message.facts }, message.message);
      return;
    }
    if (message.type === 'over') {
      this.#jobs.over(message.run);
      return;
    }
    if (message.type === 'failed') {
      this.#onFailed(message);
      return;
    }
    const job = this.#jobs.get(message.run);
    if (!job) return;
    if (message.type === 'progress') job.onProgress(message.progress);
    // Told to stop too late: it is done, and whoever stopped it decides what that means.
    else this.#end(message.run, () => job.resolve(message.result));
  }

  #onFailed(message: Extract<MessageOfRun, { type: 'failed' }>): void {
    const error = this.#failureOf(message);
    // Also by a run that was stopped and has ended for its job: what it was in the middle of went on.
    this.#noteDeviceFault(message.failure.code);
    const job = this.#jobs.get(message.run);
    if (job) this.#end(message.run, () => job.reject(job.stopped ?? error));
  }

  /** Once no session of the process runs any more every job says so, and the first one alone may have been the reason. */
  #failureOf({ failure, cause }: Extract<MessageOfRun, { type: 'failed' }>): Error {
    const isOfDevice = failure.code === 'device_lost' || failure.code === 'out_of_device_memory';
    const isBystander = isOfDevice && this.#killedFor !== undefined;
    return isBystander ? new HandBack() : new AppError(failure.code, failure.detail, { cause });
  }

  /** What the process cannot mend, its end does: a broken context, and a GPU without memory (see `GraphSession`). */
  #noteDeviceFault(code: ErrorCode): void {
    if (code === 'device_lost') this.#kill('broken');
    if (code === 'out_of_device_memory' && this.name !== 'cpu') this.#kill('memory');
  }

  #onHeartbeat(residentBytes: number): void {
    metrics.deviceResidentBytes.set({ device: this.name }, residentBytes);
    this.#jobs.countBusyTime();
    // A process that is too large before its first job would be so again: replacing it helps nobody.
    const isBloated = residentBytes > this.#options.limits.maxResidentBytes;
    if (isBloated && !this.#bloated && this.#jobsOfThisLife > 0) {
      this.#bloated = true;
      this.#recycleWhenIdle();
    }
  }

  #recycleWhenIdle(): void {
    if (!this.#bloated) return;
    if (this.#jobs.size === 0) this.#kill('memory');
    else this.emit('status', this.status);
  }

  #end(run: number, settle: () => void): void {
    this.#jobs.remove(run);
    settle();
    this.#recycleWhenIdle();
  }

  #kill(reason: RestartReason): void {
    if (!this.#isAlive) return;
    this.#killedFor = reason;
    this.#child?.kill();
    this.emit('status', this.status);
  }

  #onExit(child: DeviceChild, exit: ChildExit): void {
    if (child !== this.#child) return;
    this.#silence.stop();
    const reason = this.#killedFor ?? 'crashed';
    const jobs = this.#jobs.takeAll();
    if (this.status === 'stopped') {
      for (const job of jobs) job.reject(job.stopped ?? new HandBack());
      return;
    }
    metrics.deviceRestarts.inc({ device: this.name, reason });
    const log = { ...exit, reason, jobs: jobs.length };
    if (!child.isGone) this.#logger.error(log, 'the device process was killed and does not end');
    else if (reason === 'memory') this.#logger.info(log, 'the device process is replaced');
    else this.#logger.error(log, 'the device process ended and is replaced');
    // First the status, so that none of these jobs comes straight back.
    this.#setStatus('restarting');
    for (const job of jobs) job.reject(job.stopped ?? lossOf(reason));
    this.#replace(child, isFailure(reason));
  }

  /** When it is gone: one that does not end holds the device's memory, and the next one would wait as it does. */
  #replace(child: DeviceChild | undefined, failed: boolean): void {
    if (child && !child.isGone) this.#setStatus('failed');
    void Promise.resolve(child?.gone).then(() => this.#restart(failed));
  }

  #restart(failed: boolean): void {
    if (this.status === 'stopped') return;
    const delayMs = this.#restartDelay.next(failed, performance.now() - this.#startedAt);
    this.#restartTimer = setTimeout(() => {
      this.#setStatus('restarting');
      this.#live().catch((error: unknown) => {
        if (this.status === 'stopped') return;
        this.#logFailedStart(error, 'the device could not be restarted; trying again');
        this.emit('failedStart', toAppError(error));
        this.#replace(this.#child, true);
      });
    }, delayMs);
  }

  #logFailedStart(error: unknown, message: string): void {
    const { code, message: detail, cause } = toAppError(error);
    this.#logger.error({ code, detail, err: cause }, message);
  }

  #setStatus(status: DeviceStatus): void {
    if (this.status === status || this.status === 'stopped') return;
    if (this.status === 'ready') this.lastReadyAt = performance.now();
    this.status = status;
    metrics.deviceUp.set({ device: this.name }, status === 'ready' ? 1 : 0);
    this.emit('status', status);
  }
}

const refused = (reason: unknown): DeviceRun => ({
  result: Promise.reject(reason),
  over: Promise.resolve(),
});

function timeoutError(timeoutMs: number): AppError {
  return new AppError(
    'job_timeout',
    `The job did not finish within ${timeoutMs / 1000} s on its device, where it may have waited for its model to load or for other large images. A smaller image takes less time.`,
  );
}
