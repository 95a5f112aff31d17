/** What is asked of a strength map before its job is accepted: the same as of an image. */
import { AppError, toAppError } from '../errors.ts';
import { type ImageLimits, inspectImage } from '../images/inspect-image.ts';
import type { Upload } from './upload.ts';
import { mapFields } from './upload-faults.ts';

/**
 * @param signal as `inspectImage` takes it
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image, naming the field; or the reason of
 *   the signal
 */
export async function inspectMaps(
  maps: Upload['maps'],
  limits: ImageLimits,
  signal: AbortSignal,
): Promise<void> {
  for (const dial of ['pix', 'sem'] as const) {
    const bytes = maps[dial];
    if (!bytes) continue;
    try {
      await inspectImage(bytes, limits, signal);
    } catch (error) {
      signal.throwIfAborted();
      const { code, message, cause } = toAppError(error);
      const field = mapFields[dial];
      throw new AppError(code, `${field}: ${message}`, {
        cause,
        errors: [{ pointer: `#/form/${field}`, detail: message }],
      });
    }
  }
}
