/** Digests of a request: all that it asks (for Idempotency-Key), and what its result depends on (for reuse). */
import { createHash } from 'node:crypto';
import { setImmediate as otherWork } from 'node:timers/promises';
import type { UpscaleJobData } from '../jobs/job.ts';
import type { JobUploads } from '../jobs/job-uploads.ts';
import { version } from '../package-info.ts';

export type AskedJob = Omit<
  UpscaleJobData,
  'input' | 'requestId' | 'contentKey' | 'client' | 'isDefaultModel'
>;

/** SHA-256 in hexadecimal of the image and of its strength maps, in this order; null for one that is not there. */
export type FileDigests = readonly (string | null)[];

/** A millisecond or so. A whole upload can take 50, in which no other request would move. */
const sliceBytes = 1 << 20;

/** The one look at the bytes of the files: both digests below are made from what it returns. */
export async function digestFiles({ image, maps = {} }: JobUploads): Promise<FileDigests> {
  const digests: (string | null)[] = [];
  for (const bytes of [image, maps.pix, maps.sem]) {
    digests.push(bytes ? await digestInSlices(bytes) : null);
  }
  return digests;
}

/** Lets other requests have their turn after each slice. */
async function digestInSlices(bytes: Uint8Array): Promise<string> {
  const hash = createHash('sha256');
  for (let start = 0; start < bytes.length; start += sliceBytes) {
    if (start > 0) await otherWork();
    hash.update(bytes.subarray(start, start + sliceBytes));
  }
  return hash.digest('hex');
}

const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex');

/**
 * @param query as the client sent it
 * @returns the digest of the files and of everything that the client asked. What settings say where it asked nothing
 *   does not count: it may change between two tries
 */
export function requestFingerprint(files: FileDigests, asked: AskedJob, query: object): string {
  const { ttlSeconds, timeoutMs, webhook, params, ...rest } = asked;
  const { model: _, ...dials } = params;
  const { ttl, timeout, webhook: url, model } = query as Record<string, unknown>;
  const wishes = { ...rest, params: { ...dials, model }, ttl, timeout, url };
  return sha256(JSON.stringify([files, canonical(wishes)]));
}

/** @returns the digest of a path's parameters and of the query, as the client sent them */
export const requestWording = (params: object, query: object): string =>
  sha256(JSON.stringify([canonical(params), canonical(query)]));

/**
 * What the bytes of the result depend on, besides the model bundle.
 * @param client results are reused for the client whose job made them, and for nobody else
 */
export function contentKey(files: FileDigests, { params }: AskedJob, client: string): string {
  const { quality, ...others } = params;
  const lossy = params.format === 'png' ? {} : { quality };
  return sha256(JSON.stringify([version, client, files, canonical({ ...others, ...lossy })]));
}

/** Entries in the order of their names. */
function canonical(value: object): unknown[] {
  return Object.entries(value)
    .filter(([, entry]) => entry !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, entry]) => [
      name,
      typeof entry === 'object' && entry !== null ? canonical(entry) : entry,
    ]);
}
