/**
 * The upload of a request as bytes, from a raw `image/*` body, from the one file field of a multipart form, or
 * from the URL that a JSON body names. Bytes are counted as they arrive, so no request makes us hold more than the limit,
 * nor all together more than the budget.
 */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { AppError, expected } from '../errors.ts';
import { announcesBody, discardRest } from './unread-body.ts';
import type { UploadLoan } from './upload-budget.ts';
import {
  endedEarly,
  type FormFile,
  type FormFiles,
  fileField,
  mapFields,
  tooLarge,
} from './upload-faults.ts';
import { type CheckBytes, formOverheadBytes, readForm } from './upload-form.ts';
import { jsonTooLarge, maxJsonBytes, parseImageUrl } from './upload-url.ts';

const bodyKinds = `multipart/form-data with a file field "${fileField}", the raw bytes of an image with its image/* type, or application/json {"image_url": "https://…"}`;

export interface Upload {
  image: Buffer;
  /** Strength maps, not inspected yet. */
  maps: { pix?: Buffer; sem?: Buffer };
}

export interface UploadOptions {
  maxBytes: number;
  loan: UploadLoan;
  /** Fetches the image behind a URL that is not checked yet; counts its bytes in `loan`. */
  fetchImage: (url: string) => Promise<Buffer>;
}

/**
 * @returns the bytes of the image, at least one, and of the maps beside it; together at most `maxBytes`
 * @throws missing_image | too_many_files | upload_too_large | unsupported_media_type | malformed_request |
 *   invalid_parameter (a form field beside the image) | url_not_allowed | image_url_failed | image_url_unavailable |
 *   too_many_fetches | too_many_uploads | too_much_at_once
 */
export async function readUpload(
  request: FastifyRequest,
  reply: FastifyReply,
  { maxBytes, loan, fetchImage }: UploadOptions,
): Promise<Upload> {
  const mediaType = checkHeaders(request);
  const isForm = mediaType === 'multipart/form-data';
  const isJson = mediaType === 'application/json';
  const fault = isJson ? jsonTooLarge() : tooLarge(maxBytes);
  const limit = isJson ? maxJsonBytes : isForm ? maxBytes + formOverheadBytes : maxBytes;
  const check = admitBody(request, reply, { limit, fault, loan });
  if (isForm) {
    const names: FormFile[] = [fileField, ...Object.values(mapFields)];
    const files = await readForm(request.raw, request.headers, { maxBytes, names, check });
    return { image: notEmpty(files[fileField]), maps: toMaps(files) };
  }
  const bytes = await readRaw(request.raw, check);
  if (!isJson) return { image: notEmpty(bytes), maps: {} };
  return { image: await fetchImage(parseImageUrl(bytes)), maps: {} };
}

/**
 * The strength maps of a request that has no image: a form with one or both, or no body at all.
 * @throws upload_too_large | unsupported_media_type | malformed_request | too_many_files | invalid_parameter |
 *   too_many_uploads | too_much_at_once
 */
export async function readMaps(
  request: FastifyRequest,
  reply: FastifyReply,
  { maxBytes, loan }: Pick<UploadOptions, 'maxBytes' | 'loan'>,
): Promise<Upload['maps']> {
  const { headers } = request;
  if (!announcesBody(headers)) return {};
  const mediaType = mediaTypeOf(headers);
  if (mediaType !== 'multipart/form-data') {
    const wanted = `no body, or multipart/form-data with ${Object.values(mapFields).join(' and ')},`;
    const detail = expected(wanted, 'the body', mediaType || 'no Content-Type');
    throw new AppError('unsupported_media_type', `${detail}.`);
  }
  const bounds = { limit: maxBytes + formOverheadBytes, fault: tooLarge(maxBytes), loan };
  const check = admitBody(request, reply, bounds);
  const names = Object.values(mapFields);
  return toMaps(await readForm(request.raw, headers, { maxBytes, names, check }));
}

/**
 * For a route that takes no body: what is in one would be ignored, and its sender not know.
 * @throws unsupported_media_type
 */
export function refuseBody({ headers }: Pick<FastifyRequest, 'headers'>, instead: string): void {
  if (!announcesBody(headers)) return;
  const detail = expected('none', 'the body', mediaTypeOf(headers) || 'one without a Content-Type');
  throw new AppError('unsupported_media_type', `${detail}. ${instead}`);
}

/** In lower case; empty: the headers name none. */
const mediaTypeOf = (headers: IncomingHttpHeaders): string =>
  (headers['content-type'] ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? '';

interface BodyBounds {
  /** Most bytes of the body. */
  limit: number;
  /** Of a body that has more. */
  fault: AppError;
  loan: UploadLoan;
}

/**
 * The last look before a body is read.
 * @returns what holds the bytes that have come, and throws `fault`, too_many_uploads or too_much_at_once
 * @throws the same of the length that is declared | malformed_request when the client has left
 */
function admitBody(
  { raw, headers }: FastifyRequest,
  reply: FastifyReply,
  { limit, fault, loan }: BodyBounds,
): CheckBytes {
  // No event would tell a reader that begins now.
  if (raw.destroyed) throw endedEarly();
  const declared = Number(headers['content-length'] ?? 0);
  if (declared > limit) throw fault;
  loan.look(declared);
  // A client that asked first (Expect: 100-continue) sends nothing until now, so that what is refused
  // before this line costs it no upload.
  if (headers.expect?.toLowerCase() === '100-continue') reply.raw.writeContinue();
  return (received) => {
    // It was told that its time is over (clientErrorHandler): nothing may come of it any more.
    if (!raw.socket.writable) throw endedEarly();
    if (received > limit) throw fault;
    loan.hold(received);
  };
}

/** An empty file is what a browser sends for a field that nobody filled. */
function toMaps(files: FormFiles): Upload['maps'] {
  const { pix_map, sem_map } = files;
  return {
    ...(pix_map && pix_map.length > 0 ? { pix: pix_map } : {}),
    ...(sem_map && sem_map.length > 0 ? { sem: sem_map } : {}),
  };
}

function notEmpty(bytes: Buffer | undefined): Buffer {
  if (bytes && bytes.length > 0) return bytes;
  throw new AppError('missing_image', 'The image is empty: 0 bytes.');
}

/** @returns the media type of the body, in lower case: multipart/form-data, application/json or image/* */
function checkHeaders({ headers }: FastifyRequest): string {
  // Of any case (RFC 9110, section 8.4.1).
  const encoding = (headers['content-encoding'] ?? 'identity').toLowerCase();
  if (encoding !== 'identity') {
    throw new AppError(
      'unsupported_media_type',
      `${expected('no Content-Encoding', 'the body', encoding)}. Send the image as it is.`,
    );
  }
  const mediaType = mediaTypeOf(headers);
  if (mediaType === '' && !announcesBody(headers)) {
    throw new AppError('missing_image', `There is no body. Send ${bodyKinds}.`);
  }
  const known = mediaType === 'multipart/form-data' || mediaType === 'application/json';
  if (!known && !mediaType.startsWith('image/')) {
    throw new AppError(
      'unsupported_media_type',
      `${expected(bodyKinds, 'the body', mediaType || 'no Content-Type')}.`,
    );
  }
  return mediaType;
}

/** @throws what `check` throws | malformed_request */
function readRaw(raw: IncomingMessage, check: CheckBytes): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const chunks: Buffer[] = [];
    let received = 0;
    const settle = (done: () => void): void => {
      raw.off('data', onData).off('end', onEnd).off('error', onLost).off('close', onLost);
      done();
    };
    const onData = (chunk: Buffer): void => {
      received += chunk.length;
      chunks.push(chunk);
      try {
        check(received);
      } catch (error) {
        settle(() => reject(error));
        discardRest(raw);
      }
    };
    const onEnd = (): void => settle(() => resolve(Buffer.concat(chunks, received)));
    const onLost = (cause?: unknown): void => settle(() => reject(endedEarly(cause)));
    raw.on('data', onData).once('end', onEnd).once('error', onLost).once('close', onLost);
  });
}
