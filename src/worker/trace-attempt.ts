/** The spans of one attempt of a job, made by the supervisor: its time in the queue, the attempt, its stages. */
import { toAppError } from '../errors.ts';
import { stages, type UpscaleJobResult, upscaleQueueName } from '../jobs/job.ts';
import type { UpscaleJob } from '../jobs/job-snapshot.ts';
import { startSpan } from '../tracing/tracing.ts';

/**
 * @param device name of the device that runs it
 * @param run the run in the device process
 */
export async function traceAttempt(
  job: UpscaleJob,
  device: string,
  run: () => Promise<UpscaleJobResult>,
): Promise<UpscaleJobResult> {
  const { data, timestamp, processedOn = timestamp, attemptsMade } = job;
  const parent = data.traceparent;
  const common = { 'pisa.job': job.id ?? '', 'pisa.request': data.requestId };
  const span = startSpan(`process ${upscaleQueueName}`, {
    kind: 'consumer',
    parent,
    startMs: processedOn,
    attributes: {
      ...common,
      'messaging.system': 'bullmq',
      'messaging.operation.type': 'process',
      'messaging.destination.name': upscaleQueueName,
      'pisa.attempt': attemptsMade + 1,
      'pisa.device': device,
      'pisa.model': data.params.model,
    },
  });
  if (!span) return run();
  if (attemptsMade === 0) {
    startSpan('queue', { parent, startMs: timestamp, attributes: common })?.end({
      endMs: processedOn,
    });
  }
  try {
    const startedAt = Date.now();
    const result = await run();
    traceStages(result, span.traceparent, startedAt);
    span.end();
    return result;
  } catch (error) {
    span.end({ error: toAppError(error).code });
    throw error;
  }
}

/** End to end, in their order: what lies between them (reading, waiting for a turn) is at the end. */
function traceStages({ timingsMs }: UpscaleJobResult, parent: string, startedAt: number): void {
  let startMs = startedAt;
  for (const stage of stages) {
    const endMs = startMs + timingsMs[stage];
    startSpan(stage, { parent, startMs })?.end({ endMs });
    startMs = endMs;
  }
}
