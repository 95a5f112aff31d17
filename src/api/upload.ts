/**
 * The upload of a request as bytes, from a raw `image/*` body, from the one file field of a multipart form, or
 * from the URL that a JSON body names. Bytes are counted as they arrive, so no request makes us hold more than the limit.
 */
import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { AppError, expected } from '../errors.ts';
import { announcesBody, discardRest } from './unread-body.ts';
import { endedEarly, fileField, tooLarge } from './upload-faults.ts';
import { formOverheadBytes, readForm } from './upload-form.ts';
import { jsonTooLarge, maxJsonBytes, parseImageUrl } from './upload-url.ts';

const bodyKinds = `multipart/form-data with one file field "${fileField}", the raw bytes of an image with its image/* type, or application/json {"image_url": "https://…"}`;

export interface UploadOptions {
  maxBytes: number;
  /** Fetches the image behind a URL that is not checked yet. */
  fetchImage: (url: string) => Promise<Buffer>;
}

/**
 * @returns the bytes of the image, at least one, at most `maxBytes`
 * @throws missing_image | too_many_files | upload_too_large | unsupported_media_type | malformed_request |
 *   invalid_parameter (a form field beside the image) | url_not_allowed | image_url_failed
 */
export async function readUpload(
  request: FastifyRequest,
  reply: FastifyReply,
  { maxBytes, fetchImage }: UploadOptions,
): Promise<Buffer> {
  const mediaType = checkHeaders(request);
  const isForm = mediaType === 'multipart/form-data';
  const isJson = mediaType === 'application/json';
  const fault = isJson ? jsonTooLarge() : tooLarge(maxBytes);
  const limit = isJson ? maxJsonBytes : isForm ? maxBytes + formOverheadBytes : maxBytes;
  if (Number(request.headers['content-length'] ?? 0) > limit) throw fault;
  // A client that asked first (Expect: 100-continue) sends nothing until now, so that what is refused
  // before this line costs it no upload.
  if (request.headers.expect?.toLowerCase() === '100-continue') reply.raw.writeContinue();
  if (isJson) return fetchImage(parseImageUrl(await readRaw(request.raw, limit, fault)));
  const bytes = isForm
    ? await readForm(request.raw, request.headers, maxBytes)
    : await readRaw(request.raw, limit, fault);
  if (bytes.length === 0) throw new AppError('missing_image', 'The image is empty: 0 bytes.');
  return bytes;
}

/** @returns the media type of the body, in lower case: multipart/form-data, application/json or image/* */
function checkHeaders({ headers }: FastifyRequest): string {
  const encoding = headers['content-encoding'] ?? 'identity';
  if (encoding !== 'identity') {
    throw new AppError(
      'unsupported_media_type',
      `${expected('no Content-Encoding', 'the body', encoding)}. Send the image as it is.`,
    );
  }
  const mediaType = (headers['content-type'] ?? '').split(';', 1)[0]?.trim().toLowerCase() ?? '';
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

/** @param fault of a body that has more than `maxBytes` */
function readRaw(raw: IncomingMessage, maxBytes: number, fault: AppError): Promise<Buffer> {
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
      if (received <= maxBytes) return;
      settle(() => reject(fault));
      discardRest(raw);
    };
    const onEnd = (): void => settle(() => resolve(Buffer.concat(chunks, received)));
    const onLost = (cause?: unknown): void => settle(() => reject(endedEarly(cause)));
    raw.on('data', onData).once('end', onEnd).once('error', onLost).once('close', onLost);
  });
}
