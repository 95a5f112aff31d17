/**
 * The upload of a request as bytes, from a raw `image/*` body or from the one file field of a multipart
 * form. Bytes are counted as they arrive, so no request makes us hold more than the limit.
 */
import { Busboy, type BusboyHeaders, type BusboyInstance } from '@fastify/busboy';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { AppError, expected } from '../errors.ts';
import { discardRest } from './unread-body.ts';

const fileField = 'image';
const bodyKinds = `multipart/form-data with one file field "${fileField}", or the raw bytes of an image with its image/* type`;

/** Room for boundaries and part headers around the file. */
const multipartOverheadBytes = 65_536;

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
  const limit = isForm ? maxBytes + multipartOverheadBytes : maxBytes;
  if (Number(request.headers['content-length'] ?? 0) > limit) throw tooLarge(maxBytes);
  // A client that asked first (Expect: 100-continue) sends nothing until now, so that what is refused
  // before this line costs it no upload.
  if (request.headers.expect?.toLowerCase() === '100-continue') reply.raw.writeContinue();
  const bytes = isForm ? await readForm(request, maxBytes) : await readRaw(request, maxBytes);
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
  const hasBody =
    headers['transfer-encoding'] !== undefined || Number(headers['content-length'] ?? 0) > 0;
  if (mediaType === '' && !hasBody) {
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

function tooLarge(maxBytes: number): AppError {
  return new AppError(
    'upload_too_large',
    `The upload has more than the ${maxBytes} bytes that this service takes (MAX_UPLOAD_BYTES).`,
  );
}

const endedEarly = (cause?: unknown): AppError =>
  new AppError('malformed_request', 'The body ended before it was complete.', { cause });

function readRaw({ raw }: FastifyRequest, maxBytes: number): Promise<Buffer> {
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

/** The one file of a form. Whatever else the form carries is refused by name, not dropped. */
function readForm({ raw, headers }: FastifyRequest, maxBytes: number): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const form = openForm(headers as BusboyHeaders, maxBytes);
    let file: Buffer | undefined;
    let received = 0;
    let settled = false;

    // The parser may go on to speak after the first fault: only the first counts.
    const settle = (done: () => void): void => {
      if (settled) return;
      settled = true;
      raw.off('data', onData).off('error', onLost).off('close', onLost);
      done();
    };
    const fail = (error: AppError): void =>
      settle(() => {
        raw.unpipe(form);
        discardRest(raw);
        reject(error);
      });
    const onData = (chunk: Buffer): void => {
      received += chunk.length;
      if (received > maxBytes + multipartOverheadBytes) fail(tooLarge(maxBytes));
    };
    const onLost = (cause?: unknown): void => {
      if (!raw.complete) fail(endedEarly(cause));
    };

    form.on('file', (name, stream, fileName) => {
      const chunks: Buffer[] = [];
      stream.on('error', (cause) => fail(endedEarly(cause)));
      stream.on('limit', () => fail(tooLarge(maxBytes)));
      stream.on('data', (chunk: Buffer) => chunks.push(chunk));
      stream.on('end', () => {
        file = Buffer.concat(chunks);
      });
      const fault = fileFault(name, fileName);
      if (fault) fail(fault);
    });
    form.on('field', (name) => fail(fieldFault(name)));
    form.on('filesLimit', () => fail(tooManyFiles()));
    form.on('partsLimit', () => fail(tooManyFiles()));
    form.on('error', (cause) => fail(endedEarly(cause)));
    form.on('finish', () =>
      settle(() =>
        file === undefined
          ? reject(
              new AppError(
                'missing_image',
                `The form has no file. Expected a file field "${fileField}".`,
              ),
            )
          : resolve(file),
      ),
    );
    raw.on('data', onData).once('error', onLost).once('close', onLost);
    raw.pipe(form);
  });
}

function openForm(headers: BusboyHeaders, maxBytes: number): BusboyInstance {
  try {
    return new Busboy({
      headers,
      // Kept whole so that a path in it is seen and refused.
      preservePath: true,
      // A field is refused on sight, and so is a second file: the counts need room for one of each.
      limits: {
        fileSize: maxBytes,
        files: 1,
        fields: 1,
        fieldSize: 1024,
        parts: 8,
        headerPairs: 32,
        headerSize: 8192,
      },
    });
  } catch (cause) {
    throw new AppError(
      'malformed_request',
      'The Content-Type of the form has no boundary. Let your HTTP client write this header.',
      { cause },
    );
  }
}

const tooManyFiles = (): AppError =>
  new AppError(
    'too_many_files',
    `Expected exactly one file in the form but received more. Send one request for each image.`,
  );

function fileFault(name: string | undefined, fileName: string | undefined): AppError | undefined {
  if (name !== fileField) {
    return new AppError(
      'missing_image',
      `${expected(`"${fileField}"`, 'the name of the file field', name ?? '')}.`,
      { errors: [{ pointer: `#/form/${fileField}`, detail: 'This file field is missing.' }] },
    );
  }
  // biome-ignore lint/suspicious/noControlCharactersInRegex: NUL is what a path trick would use.
  if (/[/\\\x00]/.test(fileName ?? '')) {
    return new AppError(
      'malformed_request',
      `${expected('a name without a path', 'the file name', fileName)}.`,
    );
  }
  return undefined;
}

function fieldFault(name: string | undefined): AppError {
  if (name === fileField) {
    return new AppError(
      'missing_image',
      `The form field "${fileField}" is text. Send it as a file, with a file name.`,
    );
  }
  const detail = `${expected('no field beside the image', 'the form', name ?? '')}. Parameters go into the query, as in POST /upscale?pix=1.`;
  return new AppError('invalid_parameter', detail, {
    errors: [{ pointer: `#/form/${(name ?? '').slice(0, 80)}`, detail }],
  });
}
