/**
 * Refuses light that is coded for screens of high dynamic range. Read as sRGB, as libvips does, it would be a flat, grey
 * picture, and nobody would be told.
 */
import { AppError } from '../errors.ts';
import type { CodePoints } from './code-points.ts';

/** Transfer characteristics (ITU-T H.273, table 3). */
const names = new Map([
  [16, 'PQ'],
  [18, 'HLG'],
]);

/**
 * To be asked of an image without a colour profile, which would say how its colours are to be shown.
 * @throws unsupported_media_type
 */
export function checkDynamicRange({ transfer }: CodePoints): void {
  const name = names.get(transfer);
  if (name === undefined) return;
  const detail = `The image is HDR (its light is coded as ${name}), which is not restored. Convert the image to sRGB and send it again.`;
  throw new AppError('unsupported_media_type', detail);
}
