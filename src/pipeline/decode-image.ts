/** Stage 1: bytes of an allowed format → upright sRGB planes in [0,1], alpha apart. */
import type { Metadata } from 'sharp';
import { AppError } from '../errors.ts';
import { isRgbInputProfile, isRgbOutputProfile } from '../images/icc-profile.ts';
import {
  type ImageLimits,
  type InspectedImage,
  imageFault,
  readHeader,
} from '../images/inspect-image.ts';
import { sharp, untrusted } from '../images/sharp-policy.ts';
import type { InputMetadata } from './keep-metadata.ts';
import { Planar } from './planar.ts';
import { retag } from './retag.ts';
import type { RunControl } from './run-control.ts';

export interface DecodedImage {
  readonly inspected: InspectedImage;
  /** [3,H,W] sRGB, gamma-encoded, in [0,1], not premultiplied. */
  readonly rgb: Planar;
  /** [1,H,W] in [0,1]; absent when the input has no alpha channel. */
  readonly alpha: Planar | undefined;
  /** For `metadata=keep`. */
  readonly metadata: InputMetadata;
}

interface Samples {
  data: Uint8Array | Uint16Array;
  channels: number;
  width: number;
  height: number;
  maximum: 255 | 65535;
}

type DecodedSamples = Samples & Pick<DecodedImage, 'inspected' | 'metadata'>;

/**
 * The interleaved samples, upright and in sRGB. libvips converts an embedded profile, and one made from code points once
 * it is embedded; CMYK without one goes through libvips' own CMYK profile. Grey and palette become RGB.
 */
async function readSamples(file: Uint8Array, limits: ImageLimits): Promise<DecodedSamples> {
  const { inspected, metadata, profile, bytes } = await readHeader(file, limits);
  const { depth, space } = metadata;
  const is16Bit = depth === 'ushort' && (space === 'rgb16' || space === 'grey16');
  const outputSpace = is16Bit ? 'rgb16' : 'srgb';
  const options = { ...untrusted(limits.maxPixels), autoOrient: true };
  const isRetagged = profile !== metadata.icc;
  // sharp brings tagged 16-bit RGB to Display P3, clipped, before anything else. With `ignoreIcc` it does
  // not, and the output profile is then reached from the embedded one in one exact step. One that cannot be read is
  // ignored, as it is with 8 bits.
  const isTagged16Bit = is16Bit && (isRetagged || space === 'rgb16') && profile !== undefined;
  try {
    const source = isRetagged ? await retag(bytes, options, outputSpace, profile) : bytes;
    const image = sharp(source, { ...options, ignoreIcc: isTagged16Bit });
    if (isTagged16Bit && isRgbInputProfile(profile)) image.withIccProfile('srgb');
    // `.raw()` alone would cut 16 bits to 8.
    image.toColourspace(outputSpace).raw(is16Bit ? { depth: 'ushort' } : undefined);
    const { data, info } = await image.toBuffer({ resolveWithObject: true });
    return {
      inspected,
      metadata: metadataToKeep(metadata, profile),
      data: is16Bit ? new Uint16Array(alignedBuffer(data)) : data,
      channels: info.channels,
      width: info.width,
      height: info.height,
      maximum: is16Bit ? 65535 : 255,
    };
  } catch (cause) {
    throw imageFault(cause, limits);
  }
}

/** The bytes in a buffer of their own, as a Uint16Array needs. */
const alignedBuffer = (data: Buffer): ArrayBuffer =>
  Uint8Array.prototype.slice.call(data).buffer as ArrayBuffer;

/**
 * What `metadata=keep` will need. A profile into which RGB cannot be brought is dropped: of CMYK, of grey, of some scanners,
 * of linear light. So is the density of a TIFF without unit, which libvips takes for pixels per millimetre.
 */
function metadataToKeep(metadata: Metadata, profile: Buffer | undefined): InputMetadata {
  const { exif, xmp, format, density, resolutionUnit } = metadata;
  return {
    profile: profile && isRgbOutputProfile(profile) ? profile : undefined,
    exif,
    xmp,
    density: format === 'tiff' && resolutionUnit === undefined ? undefined : density,
  };
}

/** Pixels per slice of the loop below. */
const bandPixels = 262_144;

/** Interleaved integers → planes in [0,1]: channels [from, from + count). */
async function deinterleave(
  samples: Samples,
  from: number,
  count: number,
  control: RunControl,
): Promise<Planar> {
  const { data, channels, width, height, maximum } = samples;
  const planes = new Planar(count, height, width);
  const pixels = width * height;
  for (let c = 0; c < count; c++) {
    for (let start = 0; start < pixels; start += bandPixels) {
      const end = Math.min(start + bandPixels, pixels);
      for (let i = start; i < end; i++) {
        planes.data[c * pixels + i] = (data[i * channels + from + c] as number) / maximum;
      }
      await control.breathe();
    }
  }
  return planes;
}

/**
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image, or what `limits.admitSize` does
 */
export async function decodeImage(
  bytes: Uint8Array,
  limits: ImageLimits,
  control: RunControl,
): Promise<DecodedImage> {
  const { inspected, metadata, ...samples } = await readSamples(bytes, limits);
  if (samples.channels !== 3 && samples.channels !== 4) {
    const detail = `The image has ${samples.channels} channels after conversion to sRGB; 3, or 4 with alpha, are allowed.`;
    throw new AppError('unsupported_media_type', detail);
  }
  return {
    inspected,
    rgb: await deinterleave(samples, 0, 3, control),
    alpha: samples.channels === 4 ? await deinterleave(samples, 3, 1, control) : undefined,
    metadata,
  };
}
