/** The job object: what clients see of a job, in every answer that tells of one. */
import Type from 'typebox';
import { type Problem, toProblem } from '../errors.ts';
import { jobKinds, jobPriorities, type Stage, stages } from '../jobs/job.ts';
import { type JobSnapshot, jobStatuses } from '../jobs/job-snapshot.ts';
import { colorFixes, oneOf, outputFormats } from '../jobs/params.ts';
import { type DeliveryState, deliveryStatuses } from '../jobs/webhook.ts';

const orNull = <T extends Type.TSchema>(schema: T, description: string) =>
  Type.Unsafe<Type.Static<T> | null>({ anyOf: [schema, { type: 'null' }], description });

const time = () => Type.Unsafe<string>({ type: 'string', format: 'date-time' });
const url = (description: string) => Type.String({ format: 'uri-reference', description });
const milliseconds = (description: string) => Type.Number({ minimum: 0, description });

const imageFacts = {
  width: Type.Integer({ minimum: 1, description: 'Upright, in pixels.' }),
  height: Type.Integer({ minimum: 1, description: 'Upright, in pixels.' }),
  bytes: Type.Integer({ minimum: 1 }),
  content_type: Type.String({ pattern: '^image/' }),
};

const stageTimings = Object.fromEntries(
  stages.map((stage) => [stage, milliseconds('Time of this stage.')]),
) as Record<Stage, ReturnType<typeof milliseconds>>;

/**
 * Every field is always there; what is not known yet, or does not apply, is null. No answer is closed by
 * `additionalProperties: false`: a client generated from this release has to take the fields of a later one.
 */
export const jobSchema = Type.Object(
  {
    id: Type.Unsafe<string>({ type: 'string', format: 'uuid' }),
    status: oneOf(jobStatuses, {
      description: 'queued → processing → succeeded, failed or canceled. The last three are final.',
    }),
    created_at: time(),
    started_at: orNull(time(), 'When its last attempt started.'),
    completed_at: orNull(time(), 'When its status became final.'),
    kind: oneOf(jobKinds, {
      description:
        'upscale: from an upload. The others start from what another job has kept: `source_id`.',
    }),
    source_id: orNull(
      Type.Unsafe<string>({ type: 'string', format: 'uuid' }),
      'The job whose upload this one uses; null when it has its own.',
    ),
    sweep: orNull(
      Type.Object({ pix: Type.Array(Type.Number()), sem: Type.Array(Type.Number()) }),
      'The columns and rows of a contact sheet; present when `kind` is sweep.',
    ),
    params: Type.Object(
      {
        pix: Type.Number(),
        sem: Type.Number(),
        pix_map: Type.Boolean({ description: 'True: `pix` is what white in a map stands for.' }),
        sem_map: Type.Boolean({ description: 'True: `sem` is what white in a map stands for.' }),
        scale: Type.Number(),
        format: oneOf(outputFormats),
        quality: Type.Integer(),
        colorfix: orNull(
          oneOf(colorFixes),
          "null until a job that named none has run: the model's own then holds.",
        ),
        metadata: oneOf(['none', 'keep'] as const),
        model: Type.String(),
      },
      { description: 'As the job runs: defaults filled in.' },
    ),
    input: Type.Object(imageFacts),
    reused: Type.Boolean({
      description: 'True: answered from the stored result of an equal request before it.',
    }),
    priority: oneOf(jobPriorities),
    ttl_seconds: Type.Integer({ minimum: 1, description: 'Life of the result once finished.' }),
    timeout_seconds: Type.Number({ description: 'Time limit of one attempt.' }),
    output: orNull(
      Type.Object({
        ...imageFacts,
        url: url('Where the image is, until `expires_at`.'),
        expires_at: time(),
      }),
      'Present once the job has succeeded.',
    ),
    progress: orNull(
      Type.Object({
        stage: oneOf(stages),
        fraction: Type.Number({ minimum: 0, maximum: 1, description: 'Of the whole job.' }),
      }),
      'Present while the job is processing and has reported any.',
    ),
    queue_position: orNull(
      Type.Integer({ minimum: 0 }),
      'How many jobs are ahead; present while the job is queued.',
    ),
    timings_ms: orNull(
      Type.Object({
        queue: milliseconds('From acceptance to the start of the attempt that succeeded.'),
        ...stageTimings,
        total: milliseconds('From acceptance to the end.'),
      }),
      'Present once the job has succeeded, unless it was answered from a stored result.',
    ),
    error: orNull(
      Type.Unsafe<Problem>({ $ref: 'Problem#' }),
      'Why the job failed or was canceled.',
    ),
    webhook: orNull(
      Type.Object({
        url: Type.String(),
        status: oneOf(deliveryStatuses, {
          description: 'pending until the receiver has answered 2xx, or all attempts are used up.',
        }),
        attempts: Type.Integer({ minimum: 0, description: 'Attempts so far.' }),
        last_attempt_at: orNull(time(), 'When the last attempt began.'),
        last_status: orNull(
          Type.Integer({ minimum: 100, maximum: 999 }),
          'HTTP status of the last attempt; null when it got none.',
        ),
        last_fault: orNull(Type.String(), 'Why the last attempt failed.'),
        next_attempt_at: orNull(time(), 'When it is tried again.'),
      }),
      'Delivery of the webhook that the request asked for; null when it asked for none, and in webhooks themselves.',
    ),
    urls: Type.Object({
      self: url('This object.'),
      result: url('The image, once the job has succeeded.'),
      events: url('Its changes, as server-sent events.'),
      adjust: url('POST to it for the same image at other dials.'),
      sweep: url('POST to it for a sheet of the same image at many dials.'),
      heatmap: url('Where detail was invented, as a PNG.'),
      cancel: url('DELETE it to cancel the job, or to delete it once it has ended.'),
    }),
  },
  {
    $id: 'Job',
    description:
      'An upscale job. URLs begin with `/upscale/` and are relative to this service; in webhooks they are absolute where PUBLIC_URL is set.',
  },
);

export type JobObject = Type.Static<typeof jobSchema>;

export const jobUrl = (id: string): string => `/upscale/${id}`;
const resultUrl = (id: string): string => `/upscale/${id}/result`;

const iso = (epochMs: number): string => new Date(epochMs).toISOString();
const isoOrNull = (epochMs: number | undefined) => (epochMs === undefined ? null : iso(epochMs));

export function toJobObject(job: JobSnapshot): JobObject {
  const { id, data, result } = job;
  const { width, height, bytes, content_type } = data.input;
  return {
    id,
    status: job.status,
    created_at: iso(job.createdAt),
    started_at: isoOrNull(job.startedAt),
    completed_at: isoOrNull(job.completedAt),
    kind: data.kind ?? 'upscale',
    source_id: data.source?.id ?? null,
    sweep: data.sweep ? { pix: [...data.sweep.pix], sem: [...data.sweep.sem] } : null,
    params: {
      ...data.params,
      pix_map: data.maps?.pix !== undefined,
      sem_map: data.maps?.sem !== undefined,
      colorfix: result?.colorfix ?? data.params.colorfix ?? null,
    },
    input: { width, height, bytes, content_type },
    reused: job.reused === true,
    priority: data.priority ?? 'interactive',
    ttl_seconds: data.ttlSeconds,
    timeout_seconds: data.timeoutMs / 1000,
    output: result ? toOutput(id, result.output) : null,
    progress: job.progress ?? null,
    queue_position: job.queuePosition ?? null,
    timings_ms: toTimings(job),
    error: job.error ? toProblem(job.error) : null,
    webhook: job.webhook ? toDelivery(job.webhook) : null,
    urls: {
      self: jobUrl(id),
      result: resultUrl(id),
      events: `${jobUrl(id)}/events`,
      adjust: `${jobUrl(id)}/adjust`,
      sweep: `${jobUrl(id)}/sweep`,
      heatmap: `${jobUrl(id)}/heatmap`,
      cancel: jobUrl(id),
    },
  };
}

function toDelivery(delivery: DeliveryState): NonNullable<JobObject['webhook']> {
  const { url, status, attempts, lastAttemptAt, lastStatus, lastFault, nextAttemptAt } = delivery;
  return {
    url,
    status,
    attempts,
    last_attempt_at: isoOrNull(lastAttemptAt),
    last_status: lastStatus ?? null,
    last_fault: lastFault ?? null,
    next_attempt_at: isoOrNull(nextAttemptAt),
  };
}

function toOutput(
  id: string,
  output: NonNullable<JobSnapshot['result']>['output'],
): NonNullable<JobObject['output']> {
  const { width, height, bytes, content_type, expiresAt } = output;
  return { width, height, bytes, content_type, url: resultUrl(id), expires_at: iso(expiresAt) };
}

/** Milliseconds by name, in the order in which they passed; null unless the job has succeeded. */
export function toTimings(job: JobSnapshot): JobObject['timings_ms'] {
  if (job.reused) return null;
  if (!job.result || job.startedAt === undefined || job.completedAt === undefined) return null;
  return {
    queue: Math.max(0, job.startedAt - job.createdAt),
    ...job.result.timingsMs,
    total: Math.max(0, job.completedAt - job.createdAt),
  };
}
