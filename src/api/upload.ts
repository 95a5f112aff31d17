/**
 * The upload of a request as bytes, from a raw `image/*` body or from the one file field of a multipart
 * form. Bytes are counted as they arrive, so no request makes us hold more than the limit.
 */
import type { IncomingMessage } from 'node:http';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { AppError, expected } from '../errors.ts';
import { announcesBody, discardRest } from './unread-body.ts';
import { endedEarly, fileField, tooLarge } from './upload-faults.ts';
import { formOverheadBytes, readForm } from './upload-form.ts';

const bodyKinds = `multipart/form-data with one file field "${fileField}", or the raw bytes of an image with its image/* type`;

/**
 * @returns the bytes of the image, at least one, at most `maxBytes`
 * @throws missing_image | too_many_files | upload_too_large | unsupported_media_type | malformed_request |
 *   invalid_parameter (a form field beside the image)
 */
export async function readUpload(
  request: FastifyRequest,
  reply: FastifyReply,
  maxBytes: number,
): Promise<Buffer> {
  const mediaType = checkHeaders(request);
  const isForm = mediaType === 'multipart/form-data';
  const limit = isForm ? maxBytes + formOverheadBytes : maxBytes;
  if (Number(request.headers['content-length'] ?? 0) > limit) throw tooLarge(maxBytes);
  // A client that asked first (Expect: 100-continue) sends nothing until now, so that what is refused
  // before this line costs it no upload.
  if (request.headers.expect?.toLowerCase() === '100-continue') reply.raw.writeContinue();
  const bytes = isForm
    ? await readForm(request.raw, request.headers, maxBytes)
    : await readRaw(request.raw, maxBytes);
  if (bytes.length === 0) throw new AppError('missing_image', 'The image is empty: 0 bytes.');
  return bytes;
}

/** @returns the media type of the body, in lower case: multipart/form-data or image/* */
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
  if (mediaType !== 'multipart/form-data' && !mediaType.startsWith('image/')) {
    throw new AppError(
      'unsupported_media_type',
      `${expected(bodyKinds, 'the body', mediaType || 'no Content-Type')}.`,
    );
  }
  return mediaType;
}

function readRaw(raw: IncomingMessage, maxBytes: number): Promise<Buffer> {
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
      settle(() => reject(tooLarge(maxBytes)));
      discardRest(raw);
    };
    const onEnd = (): void => settle(() => resolve(Buffer.concat(chunks, received)));
    const onLost = (cause?: unknown): void => settle(() => reject(endedEarly(cause)));
    raw.on('data', onData).once('end', onEnd).once('error', onLost).once('close', onLost);
  });
}
