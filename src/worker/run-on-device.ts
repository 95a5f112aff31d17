/** One run of a job on a device of this worker: its place, its progress, its spans. */
import type { Logger } from 'pino';
import { type Progress, stages, type UpscaleJobResult } from '../jobs/job.ts';
import type { UpscaleJob } from '../jobs/job-snapshot.ts';
import type { DevicePool } from './device-pool.ts';
import { jobFacts } from './job-facts.ts';
import { runsAlone } from './runs-alone.ts';
import { traceAttempt } from './trace-attempt.ts';

/**
 * Waits for a place on a device and runs the job there.
 * @throws the signal's reason | HandBack | what the device process reports
 */
export async function runOnDevice(
  job: UpscaleJob,
  signal: AbortSignal,
  { pool, logger }: { pool: DevicePool; logger: Logger },
): Promise<UpscaleJobResult> {
  const lease = await pool.acquire(job.data.params.model, runsAlone(job), signal);
  let over = Promise.resolve();
  try {
    const { device } = lease;
    logger.debug({ ...jobFacts(job), device: device.name }, 'job started');
    // What an earlier attempt had done is done again.
    if (typeof job.progress === 'object') {
      await job.updateProgress({ stage: stages[0], fraction: 0 });
    }
    const onProgress = (progress: Progress) => {
      job.updateProgress(progress).catch((error: unknown) => {
        logger.debug({ ...jobFacts(job), err: error }, 'progress was not recorded');
      });
    };
    return await traceAttempt(job, device.name, () => {
      const run = device.run(job.id ?? '', job.data, signal, onProgress);
      over = run.over;
      return run.result;
    });
  } finally {
    // A job that was stopped has ended, but what it had begun still takes its place.
    void over.then(() => lease.release());
  }
}
