/**
 * Stage 1 for the photo itself: decoded, and made ready for a model that knows neither transparency nor grey. A strength
 * map is read as it is stored: what is painted on a transparent layer means black beside the paint.
 */
import type { ImageLimits } from '../images/inspect-image.ts';
import { type DecodedImage, decodeImage } from './decode-image.ts';
import { isGrey } from './grey.ts';
import { fillHiddenColors } from './hidden-colors.ts';
import type { RunControl } from './run-control.ts';

export interface DecodedPhoto extends DecodedImage {
  /** No colour anywhere: then the result has none either. */
  readonly isGrey: boolean;
}

/** @throws as `decodeImage` does */
export async function decodePhoto(
  bytes: Uint8Array,
  limits: ImageLimits,
  control: RunControl,
): Promise<DecodedPhoto> {
  const decoded = await decodeImage(bytes, limits, control);
  const { rgb, alpha } = decoded;
  if (alpha) await fillHiddenColors(rgb, alpha, control);
  return { ...decoded, isGrey: await isGrey(rgb, control) };
}
