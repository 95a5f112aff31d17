/** What is done about the objects of a job around its end: noted for other dials, remembered for others, or deleted. */
import type { Redis } from 'ioredis';
import type { Logger } from 'pino';
import { isCanceled } from '../jobs/cancellation.ts';
import { outputKey, sideKeys, type UpscaleJobResult } from '../jobs/job.ts';
import type { UpscaleJob } from '../jobs/job-snapshot.ts';
import { dropObjects, keepObjects } from '../jobs/kept-objects.ts';
import { rememberResult } from '../jobs/stored-results.ts';
import type { ObjectStore } from '../storage/object-store.ts';

export interface EndedJobsOptions {
  redis: Redis;
  store: ObjectStore;
  logger: Pick<Logger, 'warn'>;
  /** Bytes of all that is kept for other dials, see src/jobs/kept-objects.ts. */
  keepMaxBytes: number;
}

export class EndedJobs {
  readonly #options: EndedJobsOptions;
  /** What is still done for jobs that have ended. None rejects. */
  readonly #tidying = new Set<Promise<void>>();

  constructor(options: EndedJobsOptions) {
    this.#options = options;
  }

  /** Before the job ends, so that a worker that dies in between runs it again, and notes it again. */
  async noteKept({ data }: UpscaleJob, { kept }: UpscaleJobResult): Promise<void> {
    if (kept.length === 0) return;
    const { keepMaxBytes: maxBytes } = this.#options;
    const source = data.source ? { source: data.input.key } : {};
    await this.#orWarn(() => keepObjects(this.#options, kept, { maxBytes, ...source }));
  }

  tidySucceeded(job: UpscaleJob, result: UpscaleJobResult): void {
    this.#tidy(async () => {
      const { redis } = this.#options;
      const id = job.id ?? '';
      if (await isCanceled(redis, id)) {
        // A cancel in the last moment reads as canceled: then nobody may fetch the result.
        return dropObjects(this.#options, [...sideKeys(id), result.output.key]);
      }
      await rememberResult(redis, id, job.data, result);
      if (result.kept.length === 0) await dropObjects(this.#options, sideKeys(id));
    });
  }

  tidyFailed(id: string): void {
    // There is a result when the cancel came after it, or an earlier attempt got that far.
    this.#tidy(() => dropObjects(this.#options, [...sideKeys(id), outputKey(id)]));
  }

  /** Resolves when nothing more is done: until then Redis and the store are needed. */
  async tidied(): Promise<void> {
    await Promise.all(this.#tidying);
  }

  #tidy(work: () => Promise<void>): void {
    const tidying = this.#orWarn(work).finally(() => this.#tidying.delete(tidying));
    this.#tidying.add(tidying);
  }

  /** A failure costs storage until the time to live ends, nothing else. */
  async #orWarn(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#options.logger.warn({ err: error }, 'an ended job could not be tidied up');
    }
  }
}
