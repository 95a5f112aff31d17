/** What the metrics say of jobs that have ended. */
import { type ErrorCode, errorCatalogue, errorCodes } from '../errors.ts';
import { jobPriorities, stages, type UpscaleJobResult } from '../jobs/job.ts';
import type { UpscaleJob } from '../jobs/job-snapshot.ts';
import { metrics, modeOf } from '../metrics.ts';

/** Models whose waits are counted from 0 on: a device that starts again says its models again. */
const waitsBegun = new Set<string>();

/**
 * From 0 on, so that the first failure, or the first job that has waited for this worker to start, is an increase like
 * any other: a rate ignores a counter's first value.
 */
export function countFromZero(model: string): void {
  if (!waitsBegun.has(model)) {
    for (const priority of jobPriorities) metrics.queueWaitSeconds.zero({ model, priority });
  }
  waitsBegun.add(model);
  metrics.jobs.inc({ status: 'succeeded', code: '', model }, 0);
  for (const code of errorCodes.filter((each) => errorCatalogue[each].status >= 500)) {
    metrics.jobs.inc({ status: 'failed', code, model }, 0);
  }
  // A fault of ours, too: the api took the name, and this worker has no such bundle.
  metrics.jobs.inc({ status: 'failed', code: 'unknown_model', model: '' }, 0);
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
  // How long a job waits does not depend on its dials, but on who is served first.
  const { priority = 'interactive' } = job.data;
  metrics.queueWaitSeconds.observe({ model, priority }, (processedOn - timestamp) / 1000);
  metrics.jobSeconds.observe(labels, (finishedOn - timestamp) / 1000);
}

/** @param longestMs JOB_TIMEOUT_SECONDS: a client that asks for less causes its own timeouts, which are no fault of ours */
export function observeFailure(job: UpscaleJob, code: ErrorCode, longestMs: number): void {
  const status = code === 'canceled' ? 'canceled' : 'failed';
  const isRequested = code === 'job_timeout' && job.data.timeoutMs < longestMs;
  // A name that no bundle has must not become a label.
  const model = code === 'unknown_model' ? '' : job.data.params.model;
  metrics.jobs.inc({ status, code: isRequested ? 'requested_timeout' : code, model });
}
