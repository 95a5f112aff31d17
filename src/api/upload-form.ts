/** The files of a multipart form. Whatever else the form carries is refused by name, not dropped. */
import type { IncomingHttpHeaders, IncomingMessage } from 'node:http';
import type { Readable } from 'node:stream';
import { Busboy, type BusboyHeaders, type BusboyInstance } from '@fastify/busboy';
import { AppError, expected } from '../errors.ts';
import { discardRest } from './unread-body.ts';
import { endedEarly, type FormFile, type FormFiles, fileField, tooLarge } from './upload-faults.ts';
import { escapePointer } from './validation.ts';

/** Room for boundaries and part headers around the file. */
export const formOverheadBytes = 65_536;

/** Every field that there can be, empty, and some to spare. */
const maxParts = 8;

/** Throws when a body may not have so many bytes. */
export type CheckBytes = (bytes: number) => void;

interface FormOptions {
  /** Of each file. */
  maxBytes: number;
  /** Of the file fields that may be there, each at most once; `image` must be, if it is among them. */
  names: readonly FormFile[];
  /** Of the whole form, as far as it has come. */
  check: CheckBytes;
}

/** @throws missing_image | too_many_files | upload_too_large | malformed_request | invalid_parameter, or what `check` throws */
export function readForm(
  raw: IncomingMessage,
  headers: IncomingHttpHeaders,
  { maxBytes, names, check }: FormOptions,
): Promise<FormFiles> {
  const form = openForm(headers as BusboyHeaders, maxBytes, names.length);
  return new Promise((resolve, reject) => {
    let received = 0;
    const onData = (chunk: Buffer): void => {
      received += chunk.length;
      try {
        check(received);
      } catch (error) {
        fail(error);
      }
    };
    const onLost = (cause?: unknown): void => {
      // A body may be complete and yet be lost before it was read to its end.
      if (!raw.readableEnded) fail(endedEarly(cause));
    };
    const stop = (): void => {
      raw.off('data', onData).off('error', onLost).off('close', onLost).unpipe(form);
    };
    // The parser may go on to speak after the first fault: a promise takes only the first.
    const fail = (error: unknown): void => {
      stop();
      discardRest(raw);
      reject(error);
    };
    const files = collectParts(form, maxBytes, names, fail);
    form.on('error', (cause) => fail(endedEarly(cause)));
    form.on('finish', () => {
      stop();
      if (files[fileField] || !names.includes(fileField)) resolve(files);
      else reject(missing('The form has no image.'));
    });
    raw.on('data', onData).once('error', onLost).once('close', onLost).pipe(form);
  });
}

function openForm(headers: BusboyHeaders, maxBytes: number, files: number): BusboyInstance {
  try {
    return new Busboy({
      headers,
      // Kept whole so that a path in it is seen and refused.
      preservePath: true,
      // A file too many is refused on sight, and so is a field that says something.
      limits: {
        fileSize: maxBytes,
        files,
        // As many as parts: what came after a lower limit would be dropped in silence.
        fields: maxParts,
        fieldSize: 1024,
        parts: maxParts,
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

/** @returns where the bytes of the files will be once the form has finished */
function collectParts(
  form: BusboyInstance,
  maxBytes: number,
  names: readonly FormFile[],
  fail: (error: AppError) => void,
): FormFiles {
  const files: FormFiles = {};
  const seen = new Set<string>();
  const tooMany = (): void =>
    fail(
      new AppError(
        'too_many_files',
        `Expected each of ${names.join(', ')} at most once in the form but received more. Send one request for each image.`,
      ),
    );
  form.on('file', (name: string | undefined, stream: Readable, fileName: string | undefined) => {
    const chunks: Buffer[] = [];
    stream.on('error', (cause) => fail(endedEarly(cause)));
    stream.on('limit', () => fail(tooLarge(maxBytes)));
    stream.on('data', (chunk: Buffer) => chunks.push(chunk));
    stream.on('end', () => {
      files[name as FormFile] = Buffer.concat(chunks);
    });
    const fault = fileFault(name, fileName, names);
    if (fault) fail(fault);
    else if (seen.has(name ?? '')) tooMany();
    seen.add(name ?? '');
  });
  form.on('field', (name: string | undefined, text: string) => {
    if (!isLeftEmpty(name, text, names)) fail(fieldFault(name, names));
  });
  form.on('filesLimit', tooMany);
  form.on('partsLimit', tooMany);
  return files;
}

const missing = (detail: string): AppError =>
  new AppError('missing_image', `${detail} Expected a file field "${fileField}".`, {
    errors: [{ pointer: `#/form/${fileField}`, detail: 'This file field is missing.' }],
  });

function fileFault(
  name = '',
  fileName = '',
  names: readonly FormFile[] = [],
): AppError | undefined {
  if (!names.includes(name as FormFile)) return nameFault(name, names);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: NUL is what a path trick would use.
  if (/[/\\\x00]/.test(fileName)) {
    return new AppError(
      'malformed_request',
      `${expected('a name without a path', 'the file name', fileName)}.`,
    );
  }
  return undefined;
}

function nameFault(name: string, names: readonly FormFile[]): AppError {
  const allowed = names.map((known) => `"${known}"`).join(', ');
  const detail = `${expected(allowed, 'the name of the file field', name)}.`;
  if (names.includes(fileField)) return missing(detail);
  return new AppError('invalid_parameter', detail, {
    errors: [{ pointer: `#/form/${escapePointer(name)}`, detail }],
  });
}

/** What Swagger UI sends for an optional file that nobody chose. */
const isLeftEmpty = (name: string | undefined, text: string, names: readonly FormFile[]): boolean =>
  text === '' && name !== fileField && names.includes(name as FormFile);

function fieldFault(name = '', names: readonly FormFile[] = []): AppError {
  if (name === fileField && names.includes(fileField)) {
    return missing(`The form field "${fileField}" is text. Send it as a file, with a file name.`);
  }
  const detail = `${expected('no field beside the image', 'the form', name)}. Parameters go into the query, as in POST /upscale?pix=1.`;
  return new AppError('invalid_parameter', detail, {
    errors: [{ pointer: `#/form/${escapePointer(name.slice(0, 80))}`, detail }],
  });
}
