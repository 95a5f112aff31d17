/** What the metrics say of jobs that have ended. */
import { type ErrorCode, errorCatalogue, errorCodes } from '../errors.ts';
import { stages, type UpscaleJobResult } from '../jobs/job.ts';
import type { UpscaleJob } from '../jobs/job-snapshot.ts';
import { metrics, modeOf } from '../metrics.ts';

/** From 0 on, so that the first failure is an increase like any other: a rate ignores a counter's first value. */
export function countFromZero(model: string): void {
  metrics.jobs.inc({ status: 'succeeded', code: '', model }, 0);
  for (const code of errorCodes.filter((each) => errorCatalogue[each].status >= 500)) {
    metrics.jobs.inc({ status: 'failed', code, model }, 0);
  }
}

export function observeSuccess(job: UpscaleJob, result: UpscaleJobResult): void {
  const model = result.model.name;
  const labels = { model, mode: modeOf(result.evaluations) };
  metrics.jobs.inc({ status: 'succeeded', code: '', model });
  for (const stage of stages) {
    metrics.stageSeconds.observe({ ...labels, stage }, result.timingsMs[stage] / 1000);
  }
  metrics.processingSeconds.observe(labels, result.totalMs / 1000);
  const { timestamp, processedOn = timestamp, finishedOn = processedOn } = job;
  metrics.queueWaitSeconds.observe(labels, (processedOn - timestamp) / 1000);
  metrics.jobSeconds.observe(labels, (finishedOn - timestamp) / 1000);
}

export function observeFailure(job: UpscaleJob, code: ErrorCode): void {
  const status = code === 'canceled' ? 'canceled' : 'failed';
  // A name that no bundle has is the client's invention: it must not become a label.
  const model = code === 'unknown_model' ? '' : job.data.params.model;
  metrics.jobs.inc({ status, code, model });
}
