/** Grey photos stay grey: the model draws slightly different planes, which would show as speckles of colour. */
import { bandsOf } from './bands.ts';
import type { Planar } from './planar.ts';
import type { RunControl } from './run-control.ts';

/** One 8-bit level: a decoder of grey WebP, or the conversion of a profile, may round the planes apart by one. */
const tolerance = 1.001 / 255;

/**
 * True when the planes are equal everywhere, whatever the file's own kind of pixels is.
 * @param rgb [3,H,W] in [0,1]
 */
export async function isGrey(rgb: Planar, control: RunControl): Promise<boolean> {
  const { width, height, data } = rgb;
  const pixels = width * height;
  for (const { y, height: rows } of bandsOf(rgb)) {
    for (let i = y * width; i < (y + rows) * width; i++) {
      const [r, g, b] = [data[i], data[pixels + i], data[2 * pixels + i]] as [
        number,
        number,
        number,
      ];
      if (Math.max(r, g, b) - Math.min(r, g, b) > tolerance) return false;
    }
    await control.breathe();
  }
  return true;
}

/** Luma of gamma-encoded RGB (ITU-R BT.601), what JPEG stores: whoever greys the coloured result gets the same. */
const luma = [0.299, 0.587, 0.114] as const;

/**
 * Writes the luma into all three planes.
 * @param image [3,H,W], any range; changed in place
 */
export async function makeGrey(image: Planar, control: RunControl): Promise<void> {
  const { width, height, data } = image;
  const pixels = width * height;
  for (const { y, height: rows } of bandsOf(image)) {
    for (let i = y * width; i < (y + rows) * width; i++) {
      const [r, g, b] = [data[i], data[pixels + i], data[2 * pixels + i]] as [
        number,
        number,
        number,
      ];
      const grey = luma[0] * r + luma[1] * g + luma[2] * b;
      data[i] = grey;
      data[pixels + i] = grey;
      data[2 * pixels + i] = grey;
    }
    await control.breathe();
  }
}
