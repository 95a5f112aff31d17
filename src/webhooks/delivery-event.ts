/** What a webhook says: the event, and the job object with absolute URLs. */
import { type JobObject, toJobObject } from '../api/job-object.ts';
import type { JobSnapshot } from '../jobs/job-snapshot.ts';

/**
 * The body of every attempt, the same each time.
 * @param publicUrl base of the URLs; empty: they stay relative
 */
export function eventBody(job: JobSnapshot, publicUrl: string): string {
  const object = withAbsoluteUrls(toJobObject(job), publicUrl.replace(/\/+$/, ''));
  return JSON.stringify({
    type: `upscale.${object.status}`,
    timestamp: object.completed_at,
    data: object,
  });
}

function withAbsoluteUrls(job: JobObject, base: string): JobObject {
  const { output, urls } = job;
  return {
    ...job,
    output: output && { ...output, url: base + output.url },
    urls: Object.fromEntries(
      Object.entries(urls).map(([name, url]) => [name, base + url]),
    ) as JobObject['urls'],
  };
}
