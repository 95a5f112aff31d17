/** The schema of an RFC 9457 problem object, and the table of problems that a route can answer. */
import Type from 'typebox';
import { type ErrorCode, errorCatalogue, errorCodes } from '../errors.ts';

export const problemContentType = 'application/problem+json';

export const problemSchema = Type.Object(
  {
    type: Type.String({
      pattern: '^urn:pisa-serve:problem:[a-z_]+$',
      description: 'Names the kind of problem, one to one with `code`.',
    }),
    title: Type.String({ description: 'Constant, short text of the kind of problem.' }),
    status: Type.Integer({ minimum: 400, maximum: 599, description: 'The HTTP status.' }),
    code: Type.Unsafe<ErrorCode>({
      type: 'string',
      // Not `enum`: a generated client would take no answer with a code that was added after it.
      'x-extensible-enum': errorCodes,
      description:
        'Stable name to switch on. Codes may be added: go by the `status` of one that you do not know.',
    }),
    detail: Type.String({ description: 'What happened in this case and what to do about it.' }),
    errors: Type.Optional(
      Type.Array(
        Type.Object({
          pointer: Type.String({ description: 'Where: `#/query/pix`, `#/form/image`, …' }),
          detail: Type.String(),
          maximum: Type.Optional(
            Type.Number({
              description:
                'The largest value that would have been taken: of `scale`, for this image.',
            }),
          ),
        }),
        { description: 'One entry for each faulty field of the request, at most eight.' },
      ),
    ),
  },
  {
    $id: 'Problem',
    description: 'RFC 9457 problem details.',
  },
);

/** Any route can answer these: they come from the connection or the service's own state. */
const everywhere: ErrorCode[] = [
  'malformed_request',
  'request_timeout',
  'headers_too_large',
  'internal',
  'shutting_down',
];

/** Routes that ask for a key, where keys are in use. */
const guarded: ErrorCode[] = ['unauthorized', 'forbidden'];
/** Whoever can meet a full queue can meet a client's own limits first. */
const limits: ErrorCode[] = ['rate_limited', 'too_many_jobs', 'too_much_at_once'];

/** What every route that makes a job, and may wait for it, can answer. */
export const jobProblems: readonly ErrorCode[] = [
  'invalid_parameter',
  'too_many_pixels',
  'unknown_model',
  'queue_full',
  'redis_unavailable',
  'storage_unavailable',
  // Of a job that failed, was canceled, deleted or outlived while the request waited for it.
  'job_not_found',
  'canceled',
  'input_expired',
  'result_expired',
  'device_lost',
  'model_too_large',
  'model_failed',
  'out_of_device_memory',
  'disk_full',
  'job_timeout',
];

/**
 * The `response` entries of a route for the problems it can answer, one for each status, its codes listed.
 * @param codes what this route can answer besides what every route that asks for a key can
 */
export function problemResponses(...codes: ErrorCode[]): Record<number, object> {
  const limited = codes.includes('queue_full') ? limits : [];
  return openProblemResponses(...codes, ...limited, ...guarded);
}

/** The same for a route that asks for no key. */
export function openProblemResponses(...codes: ErrorCode[]): Record<number, object> {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of new Set([...codes, ...everywhere])) {
    const { status } = errorCatalogue[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  return Object.fromEntries(
    [...byStatus].map(([status, statusCodes]) => [
      status,
      {
        description: statusCodes
          .map((code) => `\`${code}\`: ${errorCatalogue[code].title}.`)
          .join('\n'),
        ...(statusCodes.some((code) => errorCatalogue[code].retryable && status !== 500)
          ? { headers: { 'Retry-After': { type: 'integer', description: 'Seconds.' } } }
          : {}),
        content: { [problemContentType]: { schema: { $ref: 'Problem#' } } },
      },
    ]),
  );
}
