/** The jobs that are in one device process, what goes on of those that have ended, and how long there were any. */
import type { Progress, UpscaleJobResult } from '../jobs/job.ts';
import { metrics } from '../metrics.ts';

/** A job in the device process. */
export interface DeviceRun {
  /** Rejects with the failure that the process reports; the signal's reason; device_lost; HandBack. */
  readonly result: Promise<UpscaleJobResult>;
  /** Resolves when the process has done with it, or has ended: only then is there room for another. */
  readonly over: Promise<void>;
}

interface RunningJob {
  resolve: (result: UpscaleJobResult) => void;
  reject: (error: Error) => void;
  onProgress: (progress: Progress) => void;
  /** Why it was told to stop; then this, not the kill that may follow, is how it ended. */
  stopped?: Error;
}

export class DeviceJobs {
  readonly #device: string;
  readonly #jobs = new Map<number, RunningJob>();
  /** Of every run that the process has not done with: to be called when it has. */
  readonly #onOver = new Map<number, () => void>();
  #countedAt = 0;

  constructor(device: string) {
    this.#device = device;
    this.countBusyTime();
  }

  get size(): number {
    return this.#jobs.size;
  }

  get(run: number): RunningJob | undefined {
    return this.#jobs.get(run);
  }

  add(run: number, onProgress: (progress: Progress) => void): DeviceRun {
    this.countBusyTime();
    const result = new Promise<UpscaleJobResult>((resolve, reject) => {
      this.#jobs.set(run, { resolve, reject, onProgress });
    });
    const over = new Promise<void>((resolve) => {
      this.#onOver.set(run, resolve);
    });
    this.#showSize();
    return { result, over };
  }

  /** The job has ended; of its run something may go on. */
  remove(run: number): void {
    this.countBusyTime();
    this.#jobs.delete(run);
    this.#showSize();
  }

  /** The process has done with the run. */
  over(run: number): void {
    this.#onOver.get(run)?.();
    this.#onOver.delete(run);
  }

  /** The process has ended: takes out all that was in it. */
  takeAll(): RunningJob[] {
    this.countBusyTime();
    const jobs = [...this.#jobs.values()];
    this.#jobs.clear();
    for (const run of this.#onOver.keys()) this.over(run);
    this.#showSize();
    return jobs;
  }

  /** Adds the time since the last call to the counter, if there was a job. Called often, so that it grows evenly. */
  countBusyTime(): void {
    const now = performance.now();
    const seconds = this.#jobs.size > 0 ? (now - this.#countedAt) / 1000 : 0;
    metrics.deviceBusySeconds.inc({ device: this.#device }, seconds);
    this.#countedAt = now;
  }

  #showSize(): void {
    metrics.deviceJobs.set({ device: this.#device }, this.#jobs.size);
  }
}
