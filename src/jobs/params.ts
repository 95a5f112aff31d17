/**
 * The dials of one upscale: the query of `POST /upscale`, the options of `pisa-serve upscale` (commands/dial-options.ts)
 * and the input of the pipeline are this one schema.
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

/** What a request gets that names none. The model, and the colour fix that it asks for, are settings of their own. */
export const upscaleDefaults = {
  pix: 1,
  sem: 1,
  scale: 4,
  format: 'png',
  quality: 90,
  metadata: 'none',
} as const;

/** Of `pix` and `sem`, whose minimum is 0. */
export const maxDial = 2;

/** All optional: what is absent takes its default in `resolveParams`. */
export const upscaleQuerySchema = Type.Object(
  {
    pix: Type.Optional(
      Type.Number({
        minimum: 0,
        maximum: maxDial,
        default: upscaleDefaults.pix,
        description: 'λ_pix: how much degradation to remove (0 = none, 1 = as trained).',
      }),
    ),
    sem: Type.Optional(
      Type.Number({
        minimum: 0,
        maximum: maxDial,
        default: upscaleDefaults.sem,
        description: 'λ_sem: how much detail to add (0 = none, 1 = as trained).',
      }),
    ),
    scale: Type.Optional(
      Type.Number({
        minimum: 1,
        maximum: 4,
        default: upscaleDefaults.scale,
        description:
          'Output size / input size. The output is exactly round(scale × input). The model works at the scale that it was trained for, so less is no quicker.',
      }),
    ),
    format: Type.Optional(
      // No `default`: a client that fills defaults in would overrule its own Accept.
      oneOf(outputFormats, {
        description: `Type of the output image. Default: what Accept names, else ${upscaleDefaults.format}.`,
      }),
    ),
    quality: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: 100,
        default: upscaleDefaults.quality,
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
        default: upscaleDefaults.metadata,
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
    pix: query.pix ?? upscaleDefaults.pix,
    sem: query.sem ?? upscaleDefaults.sem,
    scale: query.scale ?? upscaleDefaults.scale,
    format: query.format ?? upscaleDefaults.format,
    quality: query.quality ?? upscaleDefaults.quality,
    ...(query.colorfix ? { colorfix: query.colorfix } : {}),
    metadata: query.metadata ?? upscaleDefaults.metadata,
    model: query.model ?? defaultModel,
  };
}
