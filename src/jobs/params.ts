/**
 * The dials of one upscale: the query of `POST /upscale`, the flags of `pisa-serve upscale` and the
 * input of the pipeline are this one schema.
 */
import Type from 'typebox';

export const outputFormats = ['png', 'jpeg', 'webp', 'avif'] as const;
export type OutputFormat = (typeof outputFormats)[number];

export const colorFixes = ['adain', 'wavelet', 'none'] as const;
export type ColorFix = (typeof colorFixes)[number];

/** The schema of a word out of a list. */
export const oneOf = <const T extends readonly string[]>(values: T, options: object = {}) =>
  Type.Unsafe<T[number]>({ type: 'string', enum: [...values], ...options });

export const contentTypeOf: Record<OutputFormat, string> = {
  png: 'image/png',
  jpeg: 'image/jpeg',
  webp: 'image/webp',
  avif: 'image/avif',
};

/** All optional: what is absent takes its default in `resolveParams`. */
export const upscaleQuerySchema = Type.Object(
  {
    pix: Type.Optional(
      Type.Number({
        minimum: 0,
        maximum: 2,
        default: 1,
        description: 'λ_pix: how much degradation to remove (0 = none, 1 = as trained).',
      }),
    ),
    sem: Type.Optional(
      Type.Number({
        minimum: 0,
        maximum: 2,
        default: 1,
        description: 'λ_sem: how much detail to add (0 = none, 1 = as trained).',
      }),
    ),
    scale: Type.Optional(
      Type.Number({
        minimum: 1,
        maximum: 4,
        default: 4,
        description: 'Output size / input size. The output is exactly round(scale × input).',
      }),
    ),
    format: Type.Optional(
      oneOf(outputFormats, { default: 'png', description: 'Type of the output image.' }),
    ),
    quality: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 100,
        default: 90,
        description: 'Quality of a lossy output (jpeg, webp, avif). Ignored for png.',
      }),
    ),
    colorfix: Type.Optional(
      oneOf(colorFixes, {
        description:
          'How the colours are held to the input: adain (mean and deviation per channel), wavelet (low frequencies), none. Default: what the model asks for.',
      }),
    ),
    metadata: Type.Optional(
      oneOf(['none', 'keep'] as const, {
        default: 'none',
        description:
          'keep: re-attach the colour profile, EXIF (but of a TIFF) and XMP of the input.',
      }),
    ),
    model: Type.Optional(
      Type.String({
        pattern: '^[a-z0-9][a-z0-9._-]{0,63}$',
        description: 'Name of a model bundle, see GET /models. Default: the MODEL setting.',
      }),
    ),
  },
  { additionalProperties: false },
);

export type UpscaleQuery = Type.Static<typeof upscaleQuerySchema>;

/** A query with every default filled in. `colorfix` stays absent when the model's own default holds. */
export interface UpscaleParams {
  pix: number;
  sem: number;
  scale: number;
  format: OutputFormat;
  /** 1..100, for lossy formats. */
  quality: number;
  colorfix?: ColorFix;
  metadata: 'none' | 'keep';
  model: string;
}

export function resolveParams(query: UpscaleQuery, defaultModel: string): UpscaleParams {
  return {
    pix: query.pix ?? 1,
    sem: query.sem ?? 1,
    scale: query.scale ?? 4,
    format: query.format ?? 'png',
    quality: query.quality ?? 90,
    ...(query.colorfix ? { colorfix: query.colorfix } : {}),
    metadata: query.metadata ?? 'none',
    model: query.model ?? defaultModel,
  };
}

/** The exact size of the output: round(scale × upright input), in pixels, at least 1. */
export function outputSize(
  input: { width: number; height: number },
  scale: number,
): { width: number; height: number } {
  return {
    width: Math.max(1, Math.round(scale * input.width)),
    height: Math.max(1, Math.round(scale * input.height)),
  };
}

/**
 * Longest side, in pixels, that the encoders take: 14-bit sizes in WebP, libjpeg's JPEG_MAX_DIMENSION,
 * libvips's limit for AVIF. PNG has 31-bit sizes.
 */
export const maxSidePixels: Record<OutputFormat, number> = {
  png: 2 ** 31 - 1,
  jpeg: 65_500,
  webp: 16_383,
  avif: 16_384,
};
