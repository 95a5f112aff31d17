/** Digests of a request: all that it asks (for Idempotency-Key), and what its result depends on (for reuse). */
import { createHash } from 'node:crypto';
import type { UpscaleJobData } from '../jobs/job.ts';
import { serviceVersion } from './package-version.ts';
import type { Upload } from './upload.ts';

/** The files of a request. A job from a source has no image of its own. */
export type JobUploads = Pick<Upload, 'maps'> & Partial<Pick<Upload, 'image'>>;

export type AskedJob = Omit<UpscaleJobData, 'input' | 'requestId' | 'contentKey' | 'client'>;

const sha256 = (data: Uint8Array | string): string =>
  createHash('sha256').update(data).digest('hex');

/** The digests of the image and of its strength maps. */
const filesOf = ({ image, maps }: JobUploads): (string | null)[] =>
  [image, maps.pix, maps.sem].map((bytes) => (bytes ? sha256(bytes) : null));

/** @returns the digest of the image and of everything that was asked of the job */
export function requestFingerprint(uploads: JobUploads, asked: AskedJob): string {
  return sha256(JSON.stringify([filesOf(uploads), canonical(asked)]));
}

/**
 * What the bytes of the result depend on, besides the model bundle.
 * @param client results are reused for the client whose job made them, and for nobody else
 */
export function contentKey(uploads: JobUploads, { params }: AskedJob, client: string): string {
  const { quality, ...others } = params;
  const lossy = params.format === 'png' ? {} : { quality };
  return sha256(
    JSON.stringify([serviceVersion, client, filesOf(uploads), canonical({ ...others, ...lossy })]),
  );
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
