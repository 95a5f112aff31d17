/** The jobs that are in one device process, and how long there were any. */
import type { Progress, UpscaleJobResult } from '../jobs/job.ts';
import { metrics } from '../metrics.ts';

export interface RunningJob {
  resolve: (result: UpscaleJobResult) => void;
  reject: (error: Error) => void;
  onProgress: (progress: Progress) => void;
  /** Why it was told to stop; then this, not the kill that may follow, is how it ended. */
  stopped?: Error;
}

export class DeviceJobs {
  readonly #device: string;
  readonly #jobs = new Map<number, RunningJob>();
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

  add(run: number, job: RunningJob): void {
    this.countBusyTime();
    this.#jobs.set(run, job);
    this.#showSize();
  }

  remove(run: number): void {
    this.countBusyTime();
    this.#jobs.delete(run);
    this.#showSize();
  }

  /** The process has ended: takes out all that was in it. */
  takeAll(): RunningJob[] {
    this.countBusyTime();
    const jobs = [...this.#jobs.values()];
    this.#jobs.clear();
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
