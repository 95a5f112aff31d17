/**
 * The one place that configures sharp (libvips) for untrusted images: only the loaders of the allowed
 * formats, only from memory, no cache. Whoever needs sharp imports it from here.
 */
import sharp, { type SharpOptions } from 'sharp';

// Every loader is blocked, then those that we mean are let in: no SVG, PDF, ImageMagick, and no file access.
sharp.block({ operation: ['VipsForeignLoad'] });
sharp.unblock({
  operation: [
    'VipsForeignLoadPngBuffer',
    'VipsForeignLoadJpegBuffer',
    'VipsForeignLoadWebpBuffer',
    'VipsForeignLoadHeifBuffer',
    'VipsForeignLoadTiffBuffer',
  ],
});
// Results are never asked for twice, and cached operations would hold whole images.
sharp.cache(false);

/** How every untrusted image is opened. A warning of a decoder (truncated, bad checksum) is an error. */
export const untrusted = (maxPixels: number): SharpOptions => ({
  failOn: 'warning',
  limitInputPixels: maxPixels,
  unlimited: false,
  sequentialRead: true,
});

export { sharp };
