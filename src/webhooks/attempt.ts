/** One attempt to deliver: a signed POST, and what the answer means. */
import { AppError } from '../errors.ts';
import type { AddressPolicy } from '../net/address-policy.ts';
import { guardedRequest, RequestTimeout } from '../net/guarded-request.ts';
import type { Resolve } from '../net/resolve.ts';
import { parseRetryAfter } from '../net/retry-after.ts';
import { webhookHeaders } from './signature.ts';

export interface AttemptOptions {
  /** Signing keys, newest first. */
  keys: readonly Buffer[];
  policy: AddressPolicy;
  timeoutMs: number;
  signal?: AbortSignal;
  resolve?: Resolve;
}

const failures = ['gone', 'refused_url', 'timeout', 'unreachable', '3xx', '4xx', '5xx'] as const;
/** A few fixed words: a label of the metrics. */
export const attemptOutcomes = ['delivered', ...failures] as const;

export type AttemptOutcome =
  | { kind: 'delivered'; status: number }
  | {
      kind: 'failed';
      outcome: (typeof failures)[number];
      /** HTTP status. Absent when there was no answer. */
      status?: number;
      /** For the job object: says nothing of the network behind us, and nothing that the receiver wrote. */
      fault: string;
      /** What the receiver's Retry-After asked for. */
      retryAfterMs?: number;
      /** True when the receiver wants no more (410). */
      final: boolean;
    };

/** Never throws, except the reason of `signal`. */
export async function attemptDelivery(
  url: string,
  event: { id: string; body: string },
  { keys, policy, timeoutMs, signal, resolve }: AttemptOptions,
): Promise<AttemptOutcome> {
  const now = Date.now();
  try {
    return await guardedRequest(
      {
        url,
        method: 'POST',
        headers: {
          'content-type': 'application/json',
          ...webhookHeaders(keys, event.id, Math.floor(now / 1000), event.body),
        },
        body: event.body,
        rules: { policy, plainHttp: 'listed' },
        timeoutMs,
        ...(signal ? { signal } : {}),
        ...(resolve ? { resolve } : {}),
      },
      // The status is all that counts: of the body, nothing is read.
      async ({ statusCode, headers }) => meaningOf(statusCode, headers['retry-after'], now),
    );
  } catch (error) {
    if (signal?.aborted) throw error;
    return { kind: 'failed', final: false, ...faultOf(error) };
  }
}

function meaningOf(
  status: number,
  retryAfter: string | string[] | undefined,
  nowMs: number,
): AttemptOutcome {
  if (status >= 200 && status < 300) return { kind: 'delivered', status };
  if (status === 410) {
    return {
      kind: 'failed',
      outcome: 'gone',
      status,
      fault: 'It answered 410: gone.',
      final: true,
    };
  }
  const redirects = status >= 300 && status < 400;
  const retryAfterMs = parseRetryAfter([retryAfter].flat()[0], nowMs);
  return {
    kind: 'failed',
    outcome: redirects ? '3xx' : status < 500 ? '4xx' : '5xx',
    status,
    fault: redirects
      ? `It answered ${status}: redirects are not followed.`
      : `It answered ${status}.`,
    final: false,
    ...(retryAfterMs === undefined ? {} : { retryAfterMs }),
  };
}

function faultOf(error: unknown) {
  if (error instanceof AppError) {
    return { outcome: 'refused_url' as const, fault: error.message };
  }
  if (error instanceof RequestTimeout) {
    return { outcome: 'timeout' as const, fault: 'It did not answer in time.' };
  }
  return { outcome: 'unreachable' as const, fault: 'The connection failed.' };
}
