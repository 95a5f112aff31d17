/** The dials of `pisa-serve upscale` as options: ranges, choices and defaults are those of the schema. */
import { InvalidArgumentError, Option } from 'commander';
import { type UpscaleQuery, upscaleDefaults, upscaleQuerySchema } from '../jobs/params.ts';

/** The name of a value, and what the option does; a range, choices and the default are added. */
const texts: Record<keyof UpscaleQuery, readonly [value: string, text: string]> = {
  pix: ['λ', 'how much degradation to remove'],
  sem: ['λ', 'how much detail to add'],
  scale: ['factor', 'output size / input size'],
  format: [
    'type',
    `output type; default: by the ending of the output, else ${upscaleDefaults.format}`,
  ],
  quality: ['n', 'quality of jpeg, webp, avif'],
  colorfix: ['kind', "how colours are held to the input; default: the model's"],
  metadata: ['what', 'keep: re-attach colour profile, EXIF, XMP and density'],
  model: ['name', 'model bundle in MODELS_DIR; default: the MODEL setting'],
};

/** What is read of the schema of a dial. */
interface DialSchema {
  readonly type: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly enum?: readonly string[];
  readonly default?: string | number;
}

export function dialOptions(): Option[] {
  return (Object.keys(texts) as (keyof UpscaleQuery)[]).map((name) => {
    const schema = upscaleQuerySchema.properties[name] as DialSchema;
    const [value, text] = texts[name];
    const { minimum, maximum } = schema;
    const isNumber = minimum !== undefined && maximum !== undefined;
    const range = isNumber ? `, ${minimum} to ${maximum}` : '';
    const option = new Option(`--${name} <${value}>`, `${text}${range}`);
    if (isNumber) option.argParser(numberIn(minimum, maximum, schema.type === 'integer'));
    if (schema.enum) option.choices(schema.enum);
    if (schema.default !== undefined) option.default(schema.default);
    return option;
  });
}

/** The parser of an option that takes a number. */
export const numberIn =
  (min: number, max: number, whole = false) =>
  (text: string): number => {
    const value = Number(text);
    const fits = text.trim() !== '' && value >= min && value <= max;
    if (!fits || (whole && !Number.isInteger(value))) {
      throw new InvalidArgumentError(
        `Expected a ${whole ? 'whole ' : ''}number from ${min} to ${max}.`,
      );
    }
    return value;
  };
