/** The headers that go with the bytes of a result, wherever they are answered. */
import type { UpscaleJobResult } from '../jobs/job.ts';
import type { JobSnapshot } from '../jobs/job-snapshot.ts';
import { toTimings } from './job-object.ts';

export interface FinishedJob extends JobSnapshot {
  result: UpscaleJobResult;
}

export const isSucceeded = (job: JobSnapshot): job is FinishedJob => job.result !== undefined;

/** A job has one result, which never changes: its id and length name the bytes. */
export const resultEtag = ({ id, result }: FinishedJob): string => `"${id}-${result.output.bytes}"`;

export function resultHeaders(job: FinishedJob): Record<string, string> {
  const { output } = job.result;
  return {
    'content-type': output.content_type,
    'content-length': String(output.bytes),
    'content-disposition': `inline; filename="${job.id}.${output.format}"`,
    // An image is data, whatever a browser makes of it: nothing in it may run here.
    'content-security-policy': "default-src 'none'; sandbox",
    etag: resultEtag(job),
    'x-job-id': job.id,
    'server-timing': job.reused ? 'cache;desc=hit' : serverTiming(job),
  };
}

/** https://www.w3.org/TR/server-timing/ */
function serverTiming(job: FinishedJob): string {
  return Object.entries(toTimings(job) ?? {})
    .map(([name, ms]) => `${name};dur=${Math.round(ms * 10) / 10}`)
    .join(', ');
}

/** RFC 9110, section 13.1.2: weak comparison. */
export function matchesEtag(ifNoneMatch: string | undefined, etag: string): boolean {
  if (ifNoneMatch === undefined) return false;
  const tags = ifNoneMatch.split(',').map((tag) => tag.trim().replace(/^W\//, ''));
  return tags.includes('*') || tags.includes(etag);
}

export const ifNoneMatchSchema = {
  'if-none-match': { type: 'string', description: 'An ETag seen before.' },
};

/** What OpenAPI says of the headers above. */
export const resultHeaderSchemas = {
  'Content-Disposition': { type: 'string' },
  ETag: { type: 'string' },
  'X-Job-Id': { type: 'string', format: 'uuid' },
  'Server-Timing': { type: 'string', description: 'The `timings_ms` of the job.' },
};
