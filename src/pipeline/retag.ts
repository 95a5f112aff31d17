/** Another colour profile for an image. libvips takes that of an input from its file alone. */
import type { SharpOptions } from 'sharp';
import { sharp } from '../images/sharp-policy.ts';
import { profileChunk, withChunks } from './png-chunks.ts';

/**
 * @param options as the image is to be opened
 * @param profile of its samples as they are stored; undefined: none
 * @returns a PNG with the samples, upright and as RGB, without compression
 */
export async function retag(
  bytes: Uint8Array,
  options: SharpOptions,
  space: 'srgb' | 'rgb16',
  profile: Buffer | undefined,
): Promise<Buffer> {
  const png = await sharp(bytes, { ...options, ignoreIcc: true })
    .toColourspace(space)
    .png({ compressionLevel: 0, adaptiveFiltering: false })
    .toBuffer();
  return profile ? withChunks(png, [profileChunk(profile)]) : png;
}
