/**
 * `make merged`: what the merged UNets of the embedded bundle spare a CPU. Jobs of the pipeline with them, and with the gated
 * UNet in their place, take turns in one process, so that a slow moment of the machine hits both. Writes
 * bench/results/merged.md.
 */
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { cpus, tmpdir } from 'node:os';
import path from 'node:path';
import sharp from 'sharp';
import { resolveParams } from '../src/jobs/params.ts';
import type { Manifest } from '../src/pipeline/manifest.ts';
import { loadModel, type Model } from '../src/pipeline/model.ts';
import { upscale } from '../src/pipeline/upscale.ts';
import { table, writeResult } from './results.ts';
import { embeddedModel, root } from './service.ts';
import { median } from './statistics.ts';

const bundle = path.join(root, 'models/pisa-tiny');
const modes = { one: { pix: 1, sem: 1 }, both: { pix: 1, sem: 0.5 } };
const sizes = [
  { side: 128, runs: 9 },
  { side: 512, runs: 3 },
];
const limits = { maxInputPixels: 1e9, maxOutputPixels: 1e9, maxRestoredPixels: 1e9 };

/** A copy of the bundle whose manifest knows no merged graphs. */
async function gatedBundle(folder: string): Promise<string> {
  const copy = path.join(folder, path.basename(bundle));
  await cp(bundle, copy, { recursive: true });
  const file = path.join(copy, 'manifest.json');
  const manifest = JSON.parse(await readFile(file, 'utf8')) as Manifest;
  delete manifest.graphs.unet.merged;
  await writeFile(file, JSON.stringify(manifest));
  return copy;
}

async function load(bundleDir: string): Promise<Model> {
  const model = await loadModel(bundleDir, { executionProvider: 'cpu' });
  await model.warmUp();
  return model;
}

interface Times {
  job: number;
  unet: number;
}

async function timesOf(
  image: Buffer,
  model: Model,
  dials: { pix: number; sem: number },
): Promise<Times> {
  const params = { ...resolveParams(dials, model.manifest.name), format: 'png' as const };
  const startedAt = performance.now();
  const { timingsMs } = await upscale(image, params, { model, limits });
  return { job: performance.now() - startedAt, unet: timingsMs.predict_residual ?? Number.NaN };
}

/** Of bytes: the pipeline's policy lets sharp open no files. */
const photo = async (side: number): Promise<Buffer> =>
  sharp(await readFile(path.join(root, 'test/photos/cat-128.jpg')))
    .resize(side, side)
    .png()
    .toBuffer();

const folder = await mkdtemp(path.join(tmpdir(), 'pisa-merged-'));
const gated = await load(await gatedBundle(folder));
const merged = await load(bundle);
const rows: string[][] = [];
for (const { side, runs } of sizes) {
  const image = await photo(side);
  for (const [mode, dials] of Object.entries(modes)) {
    const pairs: { before: Times; after: Times }[] = [];
    for (let run = 0; run < runs; run += 1) {
      const before = await timesOf(image, gated, dials);
      pairs.push({ before, after: await timesOf(image, merged, dials) });
    }
    const ratioOf = (what: 'job' | 'unet') =>
      `${median(pairs.map(({ before, after }) => after[what] / before[what])).toFixed(2)} ×`;
    const msOf = (form: 'before' | 'after') =>
      median(pairs.map((pair) => pair[form].job)).toFixed(0);
    rows.push([`${side}²`, mode, msOf('before'), msOf('after'), ratioOf('job'), ratioOf('unet')]);
  }
}
await Promise.all([gated.dispose(), merged.dispose(), rm(folder, { recursive: true })]);

writeResult(
  'merged',
  `# Merged UNets

\`make merged\`, ${new Date().toISOString()}, ${embeddedModel()}, ${cpus().length} × ${cpus()[0]?.model.trim()}, Node ${process.version}. Medians of pairs; milliseconds.

${table(['input', 'evaluations', 'job, gated', 'job, merged', 'merged / gated', 'of the UNet alone'], rows)}
`,
);
