/**
 * The contract of a model bundle: `manifest.json` beside its ONNX graphs. Everything that the pipeline
 * needs to know about a model is read here; nothing about any one model is hard-wired elsewhere.
 */
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import Type from 'typebox';
import { Compile } from 'typebox/compile';
import { AppError, expected } from '../errors.ts';
import { colorFixes } from '../jobs/params.ts';
import { stripsFaults, stripsSchema } from './strips/schema.ts';

const strict = { additionalProperties: false };
const positive = (description: string) => Type.Integer({ minimum: 1, description });

/** @param ending of the name, as a pattern */
const fileFields = (ending: string) => ({
  file: Type.String({
    pattern: `^[A-Za-z0-9][A-Za-z0-9._-]*${ending}$`,
    description: 'File name inside the bundle.',
  }),
  sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
  bytes: positive('Size of the file.'),
});

const onnx = fileFields('\\.onnx');
const externalSchema = Type.Object(fileFields('\\.onnx\\.data'), strict);

const graphSchema = Type.Object(
  {
    ...onnx,
    dtype: Type.Unsafe<'float32' | 'float16'>({
      type: 'string',
      enum: ['float32', 'float16'],
      description: "Type of the graph's inputs and outputs.",
    }),
    tileLatents: positive(
      'Edge of a square tile, in latent cells. Its area is what any tile may have.',
    ),
    overlapLatents: Type.Integer({
      minimum: 0,
      description: 'Cells that neighbouring tiles share.',
    }),
    receptiveRadiusLatents: Type.Union([Type.Integer({ minimum: 0 }), Type.Null()], {
      description: 'How far an output cell sees, in latent cells; null when not finite.',
    }),
    externalData: Type.Optional(
      Type.Array(externalSchema, {
        description: 'Weights beside the graph, where one file cannot hold them (2 GB).',
      }),
    ),
    strips: Type.Optional(stripsSchema),
    activationBytesPerCell: Type.Optional(
      positive('Memory of one run for each latent cell of its tile, in the type of the graph.'),
    ),
  },
  strict,
);

const unetSchema = Type.Object(
  {
    ...graphSchema.properties,
    merged: Type.Optional(
      Type.Object(
        { pix: Type.Object(onnx, strict), pisa: Type.Object(onnx, strict) },
        {
          ...strict,
          description:
            'The same without `semantic`, one graph for each residual: ε_pix and ε_PiSA.',
        },
      ),
    ),
  },
  strict,
);

const tilesSchema = Type.Object(
  {
    gigabytes: positive('Of the device, in units of 10⁹ bytes.'),
    encoder: positive('Edge of a tile, in latent cells.'),
    unet: positive('Edge of a tile, in latent cells.'),
    decoder: positive('Edge of a tile, in latent cells.'),
  },
  strict,
);

const manifestSchema = Type.Object(
  {
    schemaVersion: Type.Literal(1),
    name: Type.String({ pattern: '^[a-z0-9][a-z0-9._-]{0,63}$' }),
    version: Type.String({ minLength: 1 }),
    license: Type.String({ minLength: 1 }),
    source: Type.String(),
    description: Type.String(),
    scale: Type.Number({ minimum: 1, description: 'The factor that the model was trained for.' }),
    latents: Type.Object(
      {
        channels: positive('C of [N,C,h,w].'),
        downscale: positive('Pixels per latent cell and axis.'),
      },
      strict,
    ),
    multipleOf: positive('Height and width of the padded image are multiples of this, in pixels.'),
    graphs: Type.Object({ encoder: graphSchema, unet: unetSchema, decoder: graphSchema }, strict),
    tilesByMemory: Type.Optional(
      Type.Array(tilesSchema, {
        minItems: 1,
        description: 'Instead of tileLatents, where the memory of the device is known. Ascending.',
      }),
    ),
    colorFix: Type.Unsafe<(typeof colorFixes)[number]>({ type: 'string', enum: [...colorFixes] }),
    training: Type.Record(Type.String(), Type.Unknown(), { description: 'What trained it.' }),
  },
  strict,
);

export type Manifest = Type.Static<typeof manifestSchema>;
export type GraphName = keyof Manifest['graphs'];

export interface BundleFile {
  readonly file: string;
  readonly sha256: string;
  readonly bytes: number;
}

const manifestValidator = Compile(manifestSchema);

/** Tile positions are multiples of this many latent cells, so that a UNet that downsamples stays in phase. */
export const latentStep = (manifest: Manifest): number =>
  manifest.multipleOf / manifest.latents.downscale;

/** What the schema cannot say: how its numbers must fit each other. */
function inconsistencies(manifest: Manifest): string[] {
  const faults: string[] = [];
  const step = latentStep(manifest);
  if (!Number.isInteger(step)) {
    const multiple = `a multiple of latents.downscale (${manifest.latents.downscale})`;
    faults.push(expected(multiple, 'multipleOf', manifest.multipleOf));
  }
  for (const [name, graph] of Object.entries(manifest.graphs)) {
    const { tileLatents, overlapLatents, receptiveRadiusLatents } = graph;
    const at = `graphs.${name}`;
    faults.push(...tileFaults(tileLatents, overlapLatents, step, `${at}.tileLatents`));
    for (const [i, sizes] of (manifest.tilesByMemory ?? []).entries()) {
      const tile = sizes[name as GraphName];
      faults.push(...tileFaults(tile, overlapLatents, step, `tilesByMemory.${i}.${name}`));
    }
    // Encoder and decoder tiles are cut hard in the middle of the overlap, which is exact only then.
    if (
      name !== 'unet' &&
      receptiveRadiusLatents !== null &&
      overlapLatents < 2 * receptiveRadiusLatents
    ) {
      const halo = `at least 2 × receptiveRadiusLatents (${2 * receptiveRadiusLatents})`;
      faults.push(expected(halo, `${at}.overlapLatents`, overlapLatents));
    }
    if (graph.strips) faults.push(...stripsFaults(graph.strips, `${at}.strips`));
  }
  const gigabytes = (manifest.tilesByMemory ?? []).map((sizes) => sizes.gigabytes);
  for (const [i, size] of gigabytes.entries()) {
    const before = gigabytes[i - 1] ?? 0;
    if (size > before) continue;
    faults.push(expected(`more than ${before}`, `tilesByMemory.${i}.gigabytes`, size));
  }
  return faults;
}

function tileFaults(tile: number, overlap: number, step: number, where: string): string[] {
  const faults: string[] = [];
  if (tile % step !== 0) faults.push(expected(`a multiple of ${step}`, where, tile));
  if (tile - overlap < step) {
    const least = `at least ${overlap + step} (overlapLatents and ${step}, so that tiles advance)`;
    faults.push(expected(least, where, tile));
  }
  return faults;
}

/**
 * @param text content of a manifest.json
 * @param where shown in faults
 * @throws invalid_bundle naming every fault
 */
export function parseManifest(text: string, where: string): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new AppError('invalid_bundle', `${where} is not JSON.`, { cause });
  }
  if (!manifestValidator.Check(value)) {
    const faults = manifestValidator
      .Errors(value)
      .map((error) => `${error.instancePath || '/'} ${error.message}`);
    throw new AppError('invalid_bundle', `${where} does not fit the schema: ${faults.join('; ')}.`);
  }
  const faults = inconsistencies(value);
  if (faults.length > 0) {
    throw new AppError('invalid_bundle', `${where} contradicts itself: ${faults.join('; ')}.`);
  }
  return value;
}

/** @throws invalid_bundle */
export async function loadManifest(bundleDir: string): Promise<Manifest> {
  const file = path.join(bundleDir, 'manifest.json');
  let text: string;
  try {
    text = await readFile(file, 'utf8');
  } catch (cause) {
    const hint = 'A bundle is a folder with manifest.json and its ONNX graphs.';
    throw new AppError('invalid_bundle', `Cannot read ${file}. ${hint}`, { cause });
  }
  const manifest = parseManifest(text, file);
  if (manifest.name !== path.basename(path.resolve(bundleDir))) {
    const fault = expected(`"${path.basename(path.resolve(bundleDir))}"`, 'name', manifest.name);
    throw new AppError('invalid_bundle', `${file}: ${fault}: a bundle is named as its folder.`);
  }
  return manifest;
}

/**
 * The manifests of all bundles in a folder, by name. Hidden folders and those without a manifest.json are skipped.
 * @throws invalid_bundle when one is there and wrong
 */
export async function listBundles(modelsDir: string): Promise<Manifest[]> {
  const entries = await readdir(modelsDir, { withFileTypes: true }).catch((cause) => {
    throw new AppError('invalid_bundle', `Cannot read the folder of models ${modelsDir}.`, {
      cause,
    });
  });
  const manifests: Manifest[] = [];
  for (const entry of entries.sort((a, b) => (a.name < b.name ? -1 : 1))) {
    // Hidden: a bundle that is being made or fetched.
    if (entry.name.startsWith('.')) continue;
    const bundleDir = path.join(modelsDir, entry.name);
    const hasManifest = await stat(path.join(bundleDir, 'manifest.json')).catch(() => undefined);
    if (hasManifest?.isFile()) manifests.push(await loadManifest(bundleDir));
  }
  return manifests;
}

/** The manifest has the hashes of all files, so its own stands for the whole bundle. */
export function bundleSha256(manifest: Manifest): string {
  return createHash('sha256').update(JSON.stringify(manifest)).digest('hex');
}

/** Every file of a graph. */
export const graphFiles = (graph: Type.Static<typeof unetSchema>): BundleFile[] => [
  graph,
  ...(graph.externalData ?? []),
  ...(graph.strips ? [graph.strips] : []),
  ...Object.values(graph.merged ?? {}),
];

/** Every file of a bundle but its manifest. */
export const bundleFiles = ({ graphs }: Manifest): BundleFile[] =>
  Object.values(graphs).flatMap(graphFiles);

export async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer);
  return hash.digest('hex');
}

/**
 * Reads every graph file and compares size and sha256 with the manifest.
 * @throws invalid_bundle naming the files that differ
 */
export async function verifyBundle(bundleDir: string): Promise<Manifest> {
  const manifest = await loadManifest(bundleDir);
  const faults: string[] = [];
  for (const entry of bundleFiles(manifest)) {
    const file = path.join(bundleDir, entry.file);
    const facts = await stat(file).catch(() => undefined);
    if (!facts) faults.push(`${entry.file} is missing`);
    else if (facts.size !== entry.bytes) {
      faults.push(expected(`${entry.bytes} bytes`, entry.file, facts.size));
    } else if ((await sha256Of(file)) !== entry.sha256) {
      faults.push(`${entry.file} has another sha256 than the manifest says`);
    }
  }
  if (faults.length > 0) {
    const hint = 'Fetch or export the bundle again.';
    throw new AppError('invalid_bundle', `${bundleDir}: ${faults.join('; ')}. ${hint}`);
  }
  return manifest;
}
