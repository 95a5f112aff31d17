/** The JSON body of a request that names its image by URL: `{"image_url": "https://…"}`. */
import { AppError, expected } from '../errors.ts';
import { maxUrlLength } from '../net/checked-url.ts';
import { escapePointer } from './validation.ts';

const imageUrlField = 'image_url';

/** Room for a URL of full length with every character escaped, and the object around it. */
export const maxJsonBytes = 6 * maxUrlLength + 1024;

export const jsonTooLarge = (): AppError =>
  new AppError('upload_too_large', `A JSON body may have at most ${maxJsonBytes} bytes.`);

/**
 * @returns the URL as it was sent, not checked yet
 * @throws malformed_request | missing_image | invalid_parameter
 */
export function parseImageUrl(body: Buffer): string {
  const value = parseJson(body);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new AppError('malformed_request', 'Expected a JSON object with an "image_url".');
  }
  const other = Object.keys(value).find((name) => name !== imageUrlField);
  if (other !== undefined) {
    const detail = `${expected(imageUrlField, 'the name of a field', other)}. Parameters go into the query, as in POST /upscale?pix=1.`;
    throw new AppError('invalid_parameter', detail, {
      errors: [{ pointer: `#/body/${escapePointer(other)}`, detail }],
    });
  }
  const url = (value as Record<string, unknown>)[imageUrlField];
  if (typeof url === 'string' && url !== '') return url;
  throw new AppError('missing_image', 'Expected a JSON object with the text field "image_url".', {
    errors: [{ pointer: `#/body/${imageUrlField}`, detail: 'Expected a URL.' }],
  });
}

function parseJson(body: Buffer): unknown {
  try {
    return JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body));
  } catch (cause) {
    throw new AppError('malformed_request', 'The body is not valid JSON.', { cause });
  }
}
