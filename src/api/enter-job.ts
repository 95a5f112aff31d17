/**
 * From a request that has been read and checked to its job: the one that an earlier request with the same
 * Idempotency-Key made, one that is answered from a stored result, or a new one in the queue.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import type { FastifyRequest } from 'fastify';
import type { Config } from '../config.ts';
import { type ImageFacts, inputKey, mapKeys, type UpscaleJobData } from '../jobs/job.ts';
import type { JobSnapshot } from '../jobs/job-snapshot.ts';
import type { JobUploads } from '../jobs/job-uploads.ts';
import type { UpscaleQueue } from '../jobs/queue.ts';
import type { ReuseOptions } from '../jobs/result-reuse.ts';
import { metrics } from '../metrics.ts';
import { countedFor } from './clients/client.ts';
import { shareOf } from './clients/client-share.ts';
import {
  type AskedJob,
  contentKey,
  digestFiles,
  type FileDigests,
  requestFingerprint,
  requestWording,
} from './request-digest.ts';
import type { Services } from './services.ts';

const megabyte = 1_000_000;

export interface EnteredJob {
  job: JobSnapshot;
  /** What the client learns of where the job came from. */
  headers: Record<string, string>;
}

/** Of every route that makes a job. */
export const jobHeaderSchema = {
  prefer: { type: 'string', description: 'wait=N, respond-async (RFC 7240).' },
  'idempotency-key': {
    type: 'string',
    pattern: '^[!-~]{1,255}$',
    description:
      'Makes a retry safe: a request with the same key, image and parameters gets the same job for IDEMPOTENCY_KEY_SECONDS, and `Idempotency-Replayed: true`; a new job where that one failed with a code that may succeed when tried again.',
  },
};

export const cacheHeaderSchema = {
  'cache-control': {
    type: 'string',
    description:
      'no-cache: make a new result even if there is a stored one. no-store: do not keep it for others either.',
  },
};

export const enteredHeaderSchemas = {
  'Idempotency-Replayed': {
    type: 'string',
    description: '`true`: the job of an earlier request with this key.',
  },
  'X-Cache': {
    type: 'string',
    enum: ['hit', 'miss', 'bypass'],
    description:
      '`hit`: answered from the stored result of an equal request. Absent when RESULT_CACHE is off.',
  },
};

const keyOf = (raw: IncomingMessage): string | undefined =>
  raw.headers['idempotency-key']?.toString();

/** True when a request with this Idempotency-Key has come before: it takes no new place in the queue. */
export async function isRepeated(queue: UpscaleQueue, request: FastifyRequest): Promise<boolean> {
  const key = keyOf(request.raw);
  return key !== undefined && (await queue.isClaimed({ client: request.client.name, key }));
}

const wordingOf = ({ params, query }: FastifyRequest): string =>
  requestWording(params as object, query as object);

/** The job that a request for one from a source has made before, by its Idempotency-Key. It needs no source any more. */
export async function findRepeated(
  queue: UpscaleQueue,
  request: FastifyRequest,
): Promise<JobSnapshot | undefined> {
  const key = keyOf(request.raw);
  if (key === undefined) return undefined;
  return queue.findClaimed({ client: request.client.name, key, wording: wordingOf(request) });
}

interface JobToEnter {
  uploads: JobUploads;
  asked: AskedJob;
  /** `key`: of the source's upload, for a job without one of its own. */
  input: ImageFacts & { key?: string };
  /** False: only the job of an earlier request with this key can be the answer, one that has failed included. */
  canBeNew?: boolean;
}

/** @throws idempotency_key_reused | too_many_jobs | redis_unavailable | storage_unavailable */
export async function enterJob(
  { config, queue }: Services,
  request: FastifyRequest,
  { uploads, asked, input, canBeNew }: JobToEnter,
): Promise<EnteredJob> {
  const { name: client } = request.client;
  const newId = randomUUID();
  const key = keyOf(request.raw);
  // When first asked for, and once: they cost a pass over the whole upload.
  let digests: Promise<FileDigests> | undefined;
  const files = (): Promise<FileDigests> => {
    digests ??= digestFiles(uploads);
    return digests;
  };
  const claimed: { id: string; job?: JobSnapshot } =
    key === undefined
      ? { id: newId }
      : await queue.claim(
          {
            client,
            key,
            fingerprint: requestFingerprint(await files(), asked, request.query as object),
            ...(asked.source ? { wording: wordingOf(request) } : {}),
          },
          newId,
          config.IDEMPOTENCY_KEY_SECONDS,
          canBeNew,
        );
  if (claimed.job) return { job: claimed.job, headers: { 'idempotency-replayed': 'true' } };

  const { id } = claimed;
  // What other dials make of a source is neither looked up nor kept for others: it costs little.
  const caches = config.RESULT_CACHE === 'on' && uploads.image !== undefined;
  const { outcome, keep } = cacheWish(request.raw, caches);
  const data: UpscaleJobData = {
    ...asked,
    isDefaultModel: asked.params.model === config.MODEL,
    ...(keep ? { contentKey: contentKey(await files(), asked, client) } : {}),
    input: { key: inputKey(id), ...input },
    ...mapsOf(id, uploads),
    client,
    requestId: request.id,
    ...(request.span ? { traceparent: request.span.traceparent } : {}),
  };
  const reused =
    outcome === 'miss'
      ? await queue.reuse(id, uploads, data, reuseOptions(config, key))
      : undefined;
  const job =
    reused ??
    (await queue.submit(id, uploads, data, {
      mayExist: key !== undefined,
      within: countedFor(request.client),
    }));
  if (outcome === undefined) return { job, headers: {} };
  const found = reused ? 'hit' : outcome;
  metrics.resultCache.inc({ outcome: found });
  return { job, headers: { 'x-cache': found } };
}

function reuseOptions(config: Config, key: string | undefined): ReuseOptions {
  const maxBytes = config.REUSED_MAX_MEGABYTES * megabyte;
  return {
    keepMaxBytes: config.KEEP_MAX_MEGABYTES * megabyte,
    keySeconds: key === undefined ? 0 : config.IDEMPOTENCY_KEY_SECONDS,
    maxBytes,
    maxClientBytes: Math.min(maxBytes, shareOf(maxBytes, config)),
  };
}

/** Where the strength maps of a job go; nothing when it has none. */
function mapsOf(id: string, { maps = {} }: JobUploads): Pick<UpscaleJobData, 'maps'> {
  if (!maps.pix && !maps.sem) return {};
  const { pix, sem } = mapKeys(id);
  return { maps: { ...(maps.pix ? { pix } : {}), ...(maps.sem ? { sem } : {}) } };
}

/** @returns `outcome`: what it is if nothing is found, undefined when nobody looks; `keep`: for later requests */
function cacheWish(
  { headers }: IncomingMessage,
  enabled: boolean,
): { outcome?: 'miss' | 'bypass'; keep: boolean } {
  if (!enabled) return { keep: false };
  // Of any case, and with a value that means nothing here (RFC 9111, section 5.2).
  const wishes = (headers['cache-control'] ?? '')
    .toLowerCase()
    .split(',')
    .map((wish) => wish.split('=', 1)[0]?.trim());
  if (wishes.includes('no-store')) return { outcome: 'bypass', keep: false };
  return { outcome: wishes.includes('no-cache') ? 'bypass' : 'miss', keep: true };
}
