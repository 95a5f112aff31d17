/** Stage 1: bytes of an allowed format → upright sRGB planes in [0,1], alpha apart. */
import { AppError } from '../errors.ts';
import {
  type ImageLimits,
  type InspectedImage,
  imageFault,
  readHeader,
} from '../images/inspect-image.ts';
import { sharp, untrusted } from '../images/sharp-policy.ts';
import { Planar } from './planar.ts';
import type { RunControl } from './run-control.ts';

export interface DecodedImage {
  readonly inspected: InspectedImage;
  /** [3,H,W] sRGB, gamma-encoded, in [0,1], not premultiplied. */
  readonly rgb: Planar;
  /** [1,H,W] in [0,1]; absent when the input has no alpha channel. */
  readonly alpha: Planar | undefined;
  /** 8 or 16: the depth of the input's samples. */
  readonly bitsPerChannel: 8 | 16;
}

interface Samples {
  data: Uint8Array | Uint16Array;
  channels: number;
  width: number;
  height: number;
  maximum: 255 | 65535;
}

/**
 * The interleaved samples, upright and in sRGB. libvips converts an embedded profile; CMYK without one
 * goes through libvips' own CMYK profile. Grey and palette become RGB.
 */
async function readSamples(
  bytes: Uint8Array,
  limits: ImageLimits,
): Promise<Samples & { inspected: InspectedImage }> {
  const { inspected, metadata } = await readHeader(bytes, limits);
  const is16Bit = metadata.depth === 'ushort';
  const image = sharp(bytes, { ...untrusted(limits.maxPixels), autoOrient: true });
  if (is16Bit) {
    // `.raw()` alone would cut to 8 bits. sharp converts tagged 16-bit RGB to Display P3 inside, and
    // only an explicit output profile brings that to sRGB.
    if (metadata.icc && metadata.space === 'rgb16') image.withIccProfile('srgb');
    image.toColourspace('rgb16').raw({ depth: 'ushort' });
  } else {
    image.toColourspace('srgb').raw();
  }
  try {
    const { data, info } = await image.toBuffer({ resolveWithObject: true });
    return {
      inspected,
      data: is16Bit ? new Uint16Array(data.buffer, data.byteOffset, data.byteLength / 2) : data,
      channels: info.channels,
      width: info.width,
      height: info.height,
      maximum: is16Bit ? 65535 : 255,
    };
  } catch (cause) {
    throw imageFault(cause, limits);
  }
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
 * @throws unsupported_media_type | too_many_pixels | animated_image | corrupt_image
 */
export async function decodeImage(
  bytes: Uint8Array,
  limits: ImageLimits,
  control: RunControl,
): Promise<DecodedImage> {
  const { inspected, ...samples } = await readSamples(bytes, limits);
  if (samples.channels !== 3 && samples.channels !== 4) {
    const detail = `The image has ${samples.channels} channels after conversion to sRGB; 3, or 4 with alpha, are allowed.`;
    throw new AppError('unsupported_media_type', detail);
  }
  return {
    inspected,
    rgb: await deinterleave(samples, 0, 3, control),
    alpha: samples.channels === 4 ? await deinterleave(samples, 3, 1, control) : undefined,
    bitsPerChannel: samples.maximum === 255 ? 8 : 16,
  };
}
