/**
 * How large an image a job may make: the same for the api, before a job has cost anything, and for the worker, whose
 * limit may be lower.
 */
import { AppError } from '../errors.ts';
import type { OutputFormat, UpscaleParams } from './params.ts';

interface PixelSize {
  readonly width: number;
  readonly height: number;
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

/** What is said of an image that is too large: what it is, what would fit, and which parameter of the query to change. */
interface SizeWords {
  readonly what: string;
  readonly pixels: {
    readonly advice: () => string;
    readonly parameter: string;
    /** The largest value of the parameter that fits; undefined where none does. */
    readonly maximum?: () => number | undefined;
  };
  readonly side: { readonly advice: string; readonly parameter: string };
}

/** @throws too_many_pixels | unsupported_output */
export function checkSize(
  { width, height }: PixelSize,
  { format, maxPixels }: SizeLimits,
  { what, pixels, side }: SizeWords,
): void {
  const size = `${what} would have ${width} × ${height} pixels`;
  const at = (parameter: string, maximum?: number) => ({
    errors: [
      {
        pointer: `#/query/${parameter}`,
        detail: `${size}.`,
        ...(maximum === undefined ? {} : { maximum }),
      },
    ],
  });
  if (width * height > maxPixels) {
    throw new AppError(
      'too_many_pixels',
      `${size}; this service makes at most ${maxPixels} (MAX_OUTPUT_PIXELS). ${pixels.advice()}.`,
      at(pixels.parameter, pixels.maximum?.()),
    );
  }
  const maxSide = maxSidePixels[format];
  if (Math.max(width, height) > maxSide) {
    throw new AppError(
      'unsupported_output',
      `${size}; ${format} holds at most ${maxSide} on a side. ${side.advice}.`,
      at(side.parameter),
    );
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
  const maximum = () => fittingScale(input, maxPixels);
  const advice = (): string => {
    const fitting = maximum();
    return fitting === undefined ? 'Send a smaller image' : `A scale of ${fitting} or less fits`;
  };
  checkSize(
    outputSize(input, scale),
    { format, maxPixels },
    {
      what: 'The output',
      pixels: { advice, parameter: 'scale', maximum },
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
