/**
 * What a manifest says of an encoder or decoder that is also there in stages, for images larger than a tile.
 * `python/pisa_models/convert/strips.py` writes it.
 */
import Type from 'typebox';
import { expected } from '../../errors.ts';

const strict = { additionalProperties: false };
const count = Type.Integer({ minimum: 0 });
const positive = Type.Integer({ minimum: 1 });
const tensor = Type.Integer({
  minimum: 0,
  description: 'Number of a stored tensor. 0 is the input; each other one is written by one stage.',
});

const readSchema = Type.Object(
  {
    input: Type.String({ description: 'Name in the graph.' }),
    tensor,
    above: Type.Integer({ minimum: 0, description: 'Rows that are read above the strip.' }),
    below: count,
    whole: Type.Boolean({ description: 'All rows, whatever the strip.' }),
  },
  strict,
);

const writeSchema = Type.Object(
  {
    output: Type.String({ description: 'Name in the graph.' }),
    tensor,
    channels: positive,
    tokens: Type.Boolean({ description: '[H,W,C] instead of [H,C,W].' }),
    statistics: Type.Boolean({ description: 'Also gives `mean_out` and `variance_out` [groups].' }),
  },
  strict,
);

const stageSchema = Type.Object(
  {
    offset: Type.Integer({ minimum: 0, description: 'Where its ONNX graph begins in the file.' }),
    bytes: positive,
    scale: Type.Unsafe<0.5 | 1 | 2>({
      type: 'number',
      enum: [0.5, 1, 2],
      description: 'Rows (and columns) written for each one read.',
    }),
    reads: Type.Array(readSchema, { minItems: 1 }),
    statistics: Type.Union([tensor, Type.Null()], {
      description: 'The tensor whose `mean` and `variance` [groups] it takes.',
    }),
    padded: Type.Boolean({
      description: 'Takes `edges` [2]: 1 where the strip ends at the top and bottom of the image.',
    }),
    writes: Type.Array(writeSchema, { minItems: 1 }),
  },
  strict,
);

export const stripsSchema = Type.Object(
  {
    file: Type.String({
      pattern: '^[A-Za-z0-9][A-Za-z0-9._-]*\\.stages$',
      description: 'File name inside the bundle: the ONNX graphs of all stages.',
    }),
    sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
    bytes: positive,
    groups: positive,
    channels: Type.Integer({ minimum: 1, description: 'Of tensor 0.' }),
    stages: Type.Array(stageSchema, { minItems: 1, maxItems: 1000 }),
  },
  strict,
);

export type StripsManifest = Type.Static<typeof stripsSchema>;
export type StageManifest = StripsManifest['stages'][number];

/** Faults of order and size that the schema cannot express. */
export function stripsFaults(strips: StripsManifest, at: string): string[] {
  const faults: string[] = [];
  const known = new Map([[0, false]]);
  for (const [i, stage] of strips.stages.entries()) {
    const where = `${at}.stages.${i}`;
    for (const { tensor } of stage.reads) {
      if (!known.has(tensor))
        faults.push(expected('a tensor that is written before', where, tensor));
    }
    if (stage.statistics !== null && !known.get(stage.statistics)) {
      faults.push(expected('a tensor with statistics', `${where}.statistics`, stage.statistics));
    }
    if (stage.offset + stage.bytes > strips.bytes) {
      faults.push(
        expected(`at most ${strips.bytes}`, `the end of ${where}`, stage.offset + stage.bytes),
      );
    }
    for (const { tensor, statistics } of stage.writes) {
      if (known.has(tensor)) faults.push(expected('a new tensor', `${where}.writes`, tensor));
      known.set(tensor, statistics);
    }
  }
  return faults;
}
