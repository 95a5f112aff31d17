/**
 * The events of `GET /upscale/{id}/events`: what there is to tell of a job to somebody who knows it as it was.
 * The id of an event says all that has been told up to it. So a client that comes back with Last-Event-ID, to
 * whichever api, is told exactly what it has missed, and nothing has to be kept for it.
 */
import { type Progress, stages } from '../jobs/job.ts';
import { type JobSnapshot, type JobStatus, jobStatuses } from '../jobs/job-snapshot.ts';
import { toJobObject } from './job-object.ts';

export interface StreamEvent {
  name: 'status' | 'queue_position' | 'progress' | 'deleted';
  id?: string;
  data: object;
}

/** What a client has been told of a job. */
export interface Told {
  status: JobStatus;
  /** Which attempt: epoch milliseconds of its start. */
  startedAt?: number;
  queuePosition?: number;
  progress?: Progress;
}

/** The events that lead from `told` to the job as it stands; none when all has been told. */
export function eventsSince(told: Told | undefined, job: JobSnapshot): StreamEvent[] {
  const events: StreamEvent[] = [];
  let now = told;
  const tell = (name: StreamEvent['name'], next: Told, data: object): void => {
    now = next;
    events.push({ name, id: encodeTold(next), data });
  };
  const { status, startedAt, queuePosition, progress } = job;
  if (now?.status !== status || (status === 'processing' && now.startedAt !== startedAt)) {
    tell('status', { status, ...(startedAt === undefined ? {} : { startedAt }) }, toJobObject(job));
  }
  if (status === 'queued' && queuePosition !== undefined && now?.queuePosition !== queuePosition) {
    tell('queue_position', { status, queuePosition }, { queue_position: queuePosition });
  }
  if (status === 'processing' && progress && isFurther(progress, now?.progress)) {
    tell('progress', { ...(now as Told), progress }, progress);
  }
  return events;
}

/** A look that overtakes an event may be older than what was told: within one attempt nothing goes back. */
function isFurther(progress: Progress, told: Progress | undefined): boolean {
  if (!told) return true;
  if (progress.fraction !== told.fraction) return progress.fraction > told.fraction;
  return stages.indexOf(progress.stage) > stages.indexOf(told.stage);
}

/** The state after all of `events`. */
export const toldBy = (events: StreamEvent[], before: Told | undefined): Told | undefined =>
  decodeTold(events.at(-1)?.id) ?? before;

/** `queued/3`, `processing/1767225600000/encode_latents/0.25`, `succeeded`. */
export function encodeTold({ status, startedAt, queuePosition, progress }: Told): string {
  if (status === 'queued') return queuePosition === undefined ? status : `queued/${queuePosition}`;
  if (status !== 'processing') return status;
  const attempt = `processing/${startedAt ?? 0}`;
  return progress ? `${attempt}/${progress.stage}/${progress.fraction}` : attempt;
}

/** @returns undefined for an id that is none of ours: its client is told all there is */
export function decodeTold(id: string | undefined): Told | undefined {
  const [name, first, second, third, ...rest] = (id ?? '').split('/');
  const status = jobStatuses.find((known) => known === name);
  if (!status || rest.length > 0) return undefined;
  if (status === 'queued') {
    return first === undefined ? { status } : { status, queuePosition: Number(first) };
  }
  if (status !== 'processing') return { status };
  const attempt = { status, startedAt: Number(first) };
  const stage = stages.find((known) => known === second);
  return stage ? { ...attempt, progress: { stage, fraction: Number(third) } } : attempt;
}

/** https://html.spec.whatwg.org/multipage/server-sent-events.html */
export function frame({ name, id, data }: StreamEvent): string {
  return `event: ${name}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`;
}
