import type { UpscaleJob } from '../jobs/job-snapshot.ts';
import { traceOf } from '../tracing/tracing.ts';

/** What every line of the log about a job says. */
export const jobFacts = ({ id, data }: Pick<UpscaleJob, 'id' | 'data'>) => ({
  job: id,
  request: data.requestId,
  ...traceOf(data.traceparent),
});
