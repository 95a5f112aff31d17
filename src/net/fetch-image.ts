/** Fetches an image that a request names by URL. What it is will be judged by its bytes, as with any upload. */
import type { Dispatcher } from 'undici';
import { AppError, type AppErrorOptions } from '../errors.ts';
import type { AddressPolicy } from './address-policy.ts';
import { refused } from './checked-url.ts';
import { guardedRequest, RequestTimeout } from './guarded-request.ts';
import type { Resolve } from './resolve.ts';
import { parseRetryAfter } from './retry-after.ts';
import { isTransient } from './transient-faults.ts';

export interface FetchImageOptions {
  policy: AddressPolicy;
  maxBytes: number;
  /** For everything, redirects included. */
  timeoutMs: number;
  signal?: AbortSignal;
  resolve?: Resolve;
  /** Counts the bytes, of what the host declares and as they come. What it throws ends the fetch. */
  account?: ByteAccount;
}

/** `bytes` are of the whole image, those that have come before included. */
export interface ByteAccount {
  look(bytes: number): void;
  hold(bytes: number): void;
}

const maxRedirects = 3;
const redirectStatuses = new Set([301, 302, 303, 307, 308]);
/** Of these HTTP says itself that the same request may succeed later (RFC 9110, section 15; RFC 6585, section 4). */
const transientStatuses = new Set([408, 429, 502, 503, 504]);
/** The host may ask for more, but it is anybody's: our clients are told to wait for this at most. */
const maxRetryAfterSeconds = 3600;

/**
 * Follows at most three redirects, each checked like the first URL.
 * @returns at least one byte, at most `maxBytes`
 * @throws url_not_allowed | image_url_failed | image_url_unavailable | upload_too_large | missing_image | what `account` throws
 */
export async function fetchImage(imageUrl: string, options: FetchImageOptions): Promise<Buffer> {
  const deadline = Date.now() + options.timeoutMs;
  let url = imageUrl;
  for (let redirects = 0; redirects <= maxRedirects; redirects += 1) {
    const outcome = await fetchOnce(url, options, Math.max(1, deadline - Date.now()));
    if (Buffer.isBuffer(outcome)) return outcome;
    if (!URL.canParse(outcome.location, url)) throw refused('A redirect leads to no URL.');
    url = new URL(outcome.location, url).href;
  }
  throw new AppError(
    'image_url_failed',
    `The image's host redirects more than ${maxRedirects} times. Name the last URL itself.`,
  );
}

async function fetchOnce(
  url: string,
  { policy, maxBytes, signal, resolve, account }: FetchImageOptions,
  timeoutMs: number,
): Promise<Buffer | { location: string }> {
  try {
    return await guardedRequest(
      {
        url,
        method: 'GET',
        headers: {
          accept: 'image/png, image/jpeg, image/webp, image/avif, image/tiff',
          // What is sent is counted: nothing may grow on our side.
          'accept-encoding': 'identity',
        },
        rules: { policy, plainHttp: 'anywhere' },
        timeoutMs,
        ...(signal ? { signal } : {}),
        ...(resolve ? { resolve } : {}),
      },
      (answer) => readAnswer(answer, maxBytes, account),
    );
  } catch (error) {
    if (error instanceof AppError) throw error;
    if (error instanceof RequestTimeout) {
      throw unavailable("The image's host did not send it in time.", { cause: error });
    }
    // A look-up that failed for now included: how far it came tells of the network behind us.
    const what = "The connection to the image's host failed.";
    if (isTransient(error)) throw unavailable(what, { cause: error });
    throw new AppError('image_url_failed', `${what} Upload the image instead.`, { cause: error });
  }
}

const unavailable = (what: string, options: AppErrorOptions): AppError =>
  new AppError(
    'image_url_unavailable',
    `${what} Try again later, or upload the image instead.`,
    options,
  );

async function readAnswer(
  { statusCode, headers, body }: Dispatcher.ResponseData,
  maxBytes: number,
  account: ByteAccount | undefined,
): Promise<Buffer | { location: string }> {
  const { location } = headers;
  if (redirectStatuses.has(statusCode) && typeof location === 'string') return { location };
  if (transientStatuses.has(statusCode)) {
    const wait = retryAfterOf(headers['retry-after']);
    throw unavailable(`The image's host answered ${statusCode}.`, wait);
  }
  if (statusCode !== 200) {
    throw new AppError(
      'image_url_failed',
      `The image's host answered ${statusCode}; expected 200 and the image.`,
    );
  }
  // Of any case (RFC 9110, section 8.4.1).
  const encoding = String(headers['content-encoding'] ?? 'identity').toLowerCase();
  if (encoding !== 'identity') {
    throw new AppError(
      'image_url_failed',
      "The image's host sent it with a Content-Encoding that was not asked for.",
    );
  }
  const declared = Number(headers['content-length'] ?? 0);
  if (declared > maxBytes) throw tooLarge(maxBytes);
  account?.look(declared);
  const chunks: Buffer[] = [];
  let received = 0;
  for await (const chunk of body as AsyncIterable<Buffer>) {
    received += chunk.length;
    if (received > maxBytes) throw tooLarge(maxBytes);
    account?.hold(received);
    chunks.push(chunk);
  }
  if (received === 0) throw new AppError('missing_image', 'The image at this URL is empty.');
  return Buffer.concat(chunks, received);
}

/** What the host asks for, where it says so. */
function retryAfterOf(header: string | string[] | undefined): AppErrorOptions {
  const waitMs = parseRetryAfter([header].flat()[0], Date.now());
  if (waitMs === undefined) return {};
  const seconds = Math.ceil(waitMs / 1000);
  return { retryAfterSeconds: Math.min(Math.max(1, seconds), maxRetryAfterSeconds) };
}

const tooLarge = (maxBytes: number): AppError =>
  new AppError(
    'upload_too_large',
    `The image at this URL has more than the ${maxBytes} bytes that this service takes (MAX_UPLOAD_BYTES).`,
  );
