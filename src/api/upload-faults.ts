/** What can be wrong with an upload, whichever way it comes. */
import { AppError } from '../errors.ts';

/** The form field that holds the image. */
export const fileField = 'image';
/** The form fields of strength maps, by the dial that each is for. */
export const mapFields = { pix: 'pix_map', sem: 'sem_map' } as const;

/** The files of a form, by the names of their fields. */
export type FormFile = typeof fileField | (typeof mapFields)[keyof typeof mapFields];
export type FormFiles = Partial<Record<FormFile, Buffer>>;

export const tooLarge = (maxBytes: number): AppError =>
  new AppError(
    'upload_too_large',
    `The upload has more than the ${maxBytes} bytes that this service takes (MAX_UPLOAD_BYTES).`,
  );

export const endedEarly = (cause?: unknown): AppError =>
  new AppError('malformed_request', 'The body ended before it was complete.', { cause });
