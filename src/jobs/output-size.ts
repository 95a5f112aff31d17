/**
 * How large an image a job may make: the same for the api, before a job has cost anything, and for the worker, whose
 * limit may be lower.
 */
import { AppError } from '../errors.ts';
import type { OutputFormat, UpscaleParams } from './params.ts';

export interface PixelSize {
  readonly width: number;
  readonly height: number;
}

/** What a worker may do for one job, in pixels. */
export interface PixelLimits {
  readonly maxInputPixels: number;
  readonly maxOutputPixels: number;
  /** Of what is restored in sections for one photo (src/pipeline/sections.ts). */
  readonly maxRestoredPixels: number;
}

/** Of the configuration. */
interface PixelSettings {
  readonly MAX_INPUT_PIXELS: number;
  readonly MAX_OUTPUT_PIXELS: number;
  /** 0: not set. */
  readonly MAX_RESTORED_PIXELS: number;
}

/** A photo of 12 megapixels, four times enlarged, is about as much work as three of the largest outputs by default. */
const outputsRestored = 3;

export function pixelLimits(config: PixelSettings): PixelLimits {
  const { MAX_INPUT_PIXELS, MAX_OUTPUT_PIXELS, MAX_RESTORED_PIXELS } = config;
  return {
    maxInputPixels: MAX_INPUT_PIXELS,
    maxOutputPixels: MAX_OUTPUT_PIXELS,
    maxRestoredPixels:
      MAX_RESTORED_PIXELS === 0
        ? outputsRestored * MAX_OUTPUT_PIXELS
        : Math.max(MAX_RESTORED_PIXELS, MAX_OUTPUT_PIXELS),
  };
}

/** The exact size of the output: round(scale × upright input), in pixels, at least 1. */
export function outputSize(input: PixelSize, scale: number): { width: number; height: number } {
  return {
    width: Math.max(1, Math.round(scale * input.width)),
    height: Math.max(1, Math.round(scale * input.height)),
  };
}

/**
 * Longest side, in pixels, that the encoders take: 14-bit sizes in WebP, libjpeg's JPEG_MAX_DIMENSION,
 * libvips's limit for AVIF. PNG has 31-bit sizes.
 */
const maxSidePixels: Record<OutputFormat, number> = {
  png: 2 ** 31 - 1,
  jpeg: 65_500,
  webp: 16_383,
  avif: 16_384,
};

interface SizeLimits {
  readonly format: OutputFormat;
  /** Width × height. */
  readonly maxPixels: number;
}

interface Remedy {
  readonly advice: string;
  /** Of the query: the one to change. */
  readonly parameter: string;
  /** The largest value of the parameter that fits. Absent: none does, or it is no number. */
  readonly maximum?: number;
}

/** What is said of an image that is too large. */
interface SizeWords {
  readonly what: string;
  /** For too many pixels. */
  readonly pixels: () => Remedy;
  /** For a side that the format does not hold. */
  readonly side: Remedy;
}

/** @throws too_many_pixels | unsupported_output */
export function checkSize(
  { width, height }: PixelSize,
  { format, maxPixels }: SizeLimits,
  { what, pixels, side }: SizeWords,
): void {
  const size = `${what} would have ${width} × ${height} pixels`;
  const fault = (
    code: 'too_many_pixels' | 'unsupported_output',
    limit: string,
    { advice, parameter, ...maximum }: Remedy,
  ) =>
    new AppError(code, `${size}; ${limit}. ${advice}.`, {
      errors: [{ pointer: `#/query/${parameter}`, detail: `${size}.`, ...maximum }],
    });
  if (width * height > maxPixels) {
    const limit = `this service makes at most ${maxPixels} (MAX_OUTPUT_PIXELS)`;
    throw fault('too_many_pixels', limit, pixels());
  }
  const maxSide = maxSidePixels[format];
  if (Math.max(width, height) > maxSide) {
    throw fault('unsupported_output', `${format} holds at most ${maxSide} on a side`, side);
  }
}

/**
 * @param input upright, in pixels
 * @throws too_many_pixels | unsupported_output
 */
export function checkOutput(
  input: PixelSize,
  { scale, format }: Pick<UpscaleParams, 'scale' | 'format'>,
  maxPixels: number,
): void {
  const pixels = (): Remedy => {
    const maximum = fittingScale(input, maxPixels);
    const parameter = 'scale';
    if (maximum === undefined) return { advice: 'Send a smaller image', parameter };
    return { advice: `A scale of ${maximum} or less fits`, parameter, maximum };
  };
  checkSize(
    outputSize(input, scale),
    { format, maxPixels },
    {
      what: 'The output',
      pixels,
      side: { advice: 'Choose format=png, or a smaller scale', parameter: 'format' },
    },
  );
}

/** The largest scale of two decimals whose output fits; undefined when not even the input would. */
function fittingScale(input: PixelSize, maxPixels: number): number | undefined {
  const pixelsAt = (scale: number): number => {
    const { width, height } = outputSize(input, scale);
    return width * height;
  };
  // Rounding moves the limit a little: start from the limit without it and step down.
  const start = Math.floor(100 * Math.sqrt(maxPixels / (input.width * input.height)));
  for (let hundredths = start; hundredths >= 100; hundredths -= 1) {
    if (pixelsAt(hundredths / 100) <= maxPixels) return hundredths / 100;
  }
  return undefined;
}
