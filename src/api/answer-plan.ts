/** How a request that makes a job wants to be answered: from its Accept and Prefer headers (RFC 9110, RFC 7240). */
import type { FastifyRequest } from 'fastify';
import { AppError } from '../errors.ts';
import { contentTypeOf, type OutputFormat, outputFormats } from '../jobs/params.ts';

export interface AnswerPlan {
  /** `image`: the bytes of the result; `job`: the job object. */
  kind: 'job' | 'image';
  /** The output format that Accept chose. Absent: the `format` parameter, or its default, holds. */
  format?: OutputFormat;
  /** How long the request is held for the job to end. 0: answered at once. */
  waitMs: number;
  /** Value of the Preference-Applied header. Absent: none was applied. */
  preferenceApplied?: string;
}

interface AskedFormat {
  format: OutputFormat | undefined;
  usual: OutputFormat;
}

/**
 * @param format the `format` parameter as the client gave it
 * @param usual what `image/*` means without it
 * @param maxWaitSeconds cap of every wait, and the wait of `Accept: image/*` without `Prefer: wait`
 * @throws not_acceptable when Accept takes neither JSON nor an image type that we could answer
 */
export function planAnswer(
  request: Pick<FastifyRequest, 'headers' | 'accepts'>,
  { format, usual }: AskedFormat,
  maxWaitSeconds: number,
): AnswerPlan {
  const accepted = acceptedAnswer(request, { format, usual });
  const { waitSeconds, respondAsync } = parsePrefer(request.headers.prefer);
  const wait = waitSeconds === undefined ? undefined : Math.min(waitSeconds, maxWaitSeconds);
  const applied = [
    ...(respondAsync ? ['respond-async'] : []),
    ...(wait === undefined ? [] : [`wait=${wait}`]),
  ];
  // An image can only be answered by waiting for it; a job object is answered at once unless asked otherwise.
  const unasked = accepted.kind === 'image' && !respondAsync ? maxWaitSeconds : 0;
  return {
    ...accepted,
    waitMs: (wait ?? unasked) * 1000,
    ...(applied.length > 0 ? { preferenceApplied: applied.join(', ') } : {}),
  };
}

/** A type with a parameter is accepted by its name alone, but one that Accept names with a parameter needs it offered. */
const jsonAsSent = 'application/json; charset=utf-8';

function acceptedAnswer(
  request: Pick<FastifyRequest, 'headers' | 'accepts'>,
  { format, usual }: AskedFormat,
): Pick<AnswerPlan, 'kind' | 'format'> {
  // First what `*/*` means, then what `image/*` means, then whatever else Accept may single out.
  const formats = format === undefined ? [...new Set([usual, ...outputFormats])] : [format];
  const offered = ['application/json', ...formats.map((name) => contentTypeOf[name])];
  const chosen = request.accepts().type([...offered, jsonAsSent]);
  if (typeof chosen !== 'string') {
    throw new AppError(
      'not_acceptable',
      `Expected Accept to take one of ${offered.join(', ')} but received "${shorten(request.headers.accept)}".${
        format === undefined ? '' : ` The parameter format=${format} leaves no other image type.`
      }`,
    );
  }
  const chosenFormat = formats.find((name) => contentTypeOf[name] === chosen);
  return chosenFormat === undefined ? { kind: 'job' } : { kind: 'image', format: chosenFormat };
}

const shorten = (text = ''): string => (text.length > 120 ? `${text.slice(0, 120)}…` : text);

/**
 * The preferences we know. One that is malformed counts as absent, and of two the first holds
 * (RFC 7240, section 2).
 */
export function parsePrefer(header: string | string[] | undefined): {
  waitSeconds?: number;
  respondAsync: boolean;
} {
  const preferences = [header ?? ''].flat().join(',').split(',');
  let waitSeconds: number | undefined;
  let respondAsync = false;
  for (const preference of preferences) {
    const token = (preference.split(';', 1)[0] ?? '').trim().toLowerCase();
    if (token === 'respond-async') respondAsync = true;
    const wait = /^wait\s*=\s*(?:"(\d{1,9})"|(\d{1,9}))$/.exec(token);
    if (wait) waitSeconds ??= Number(wait[1] ?? wait[2]);
  }
  return { respondAsync, ...(waitSeconds === undefined ? {} : { waitSeconds }) };
}
