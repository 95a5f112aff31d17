/**
 * `make scales`: what becomes of a sharp photo at a `scale` below the one that the embedded model was trained for, worked on at
 * that scale (as the service does) and at the size of the output (which it comes near where a photo is too large). The
 * repository's photos are reduced by `scale` and brought back; PSNR against bicubic. Writes bench/results/scales.md.
 */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import sharp from 'sharp';
import { outputSize, type PixelSize } from '../src/jobs/output-size.ts';
import { resolveParams } from '../src/jobs/params.ts';
import { loadModel, type Model } from '../src/pipeline/model.ts';
import { Planar } from '../src/pipeline/planar.ts';
import { Resampled } from '../src/pipeline/resample.ts';
import { upscale } from '../src/pipeline/upscale.ts';
import { table, writeResult } from './results.ts';
import { root } from './service.ts';

const photos = [
  'brick-128.jpg',
  'cat-128.jpg',
  'coffee-150x100.jpg',
  'portrait-96x128.jpg',
  'rocket-160x106.png',
];
const scales = [2, 3];
const dials = [
  { pix: 1, sem: 1 },
  { pix: 1, sem: 0 },
  { pix: 0.3, sem: 0 },
];
const anySize = 1e9;

/** [3,h,w] in [0,1], in 8-bit steps as a file has them. */
async function planesOf(file: Uint8Array): Promise<Planar> {
  const { data, info } = await sharp(file)
    .removeAlpha()
    .toColourspace('srgb')
    .raw()
    .toBuffer({ resolveWithObject: true });
  const planes = new Planar(3, info.height, info.width);
  const pixels = info.width * info.height;
  for (let i = 0; i < data.length; i++) {
    planes.data[(i % 3) * pixels + Math.floor(i / 3)] = (data[i] as number) / 255;
  }
  return planes;
}

function resized(planes: Planar, { width, height }: PixelSize): Planar {
  const target = new Planar(3, height, width);
  new Resampled(planes, target).readClipped({ y: 0, x: 0, height, width }, target.data);
  target.data.forEach((value, i) => {
    target.data[i] = Math.round(255 * value) / 255;
  });
  return target;
}

function pngOf({ data, width, height }: Planar): Promise<Buffer> {
  const pixels = width * height;
  const samples = Uint8Array.from({ length: data.length }, (_, i) =>
    Math.round(255 * (data[(i % 3) * pixels + Math.floor(i / 3)] as number)),
  );
  return sharp(samples, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

/** dB. */
function psnr(a: Planar, b: Planar): number {
  const squares = a.data.reduce((sum, value, i) => sum + (value - (b.data[i] as number)) ** 2, 0);
  return 10 * Math.log10(a.data.length / squares);
}

/** A photo, and itself reduced by a whole number; what does not divide is cut off. */
async function pairOf(name: string, scale: number): Promise<{ original: Planar; low: Planar }> {
  const file = await readFile(path.join(root, 'test/photos', name));
  const { width, height } = await sharp(file).metadata();
  const size = { width: Math.floor(width / scale), height: Math.floor(height / scale) };
  const whole = { width: scale * size.width, height: scale * size.height };
  const original = await planesOf(
    await sharp(file)
      .extract({ left: 0, top: 0, ...whole })
      .png()
      .toBuffer(),
  );
  return { original, low: resized(original, size) };
}

/** Mean PSNR over bicubic's, dB. */
async function gain(
  model: Model,
  scale: number,
  { isWorkedOnAtOutputSize, ...at }: { pix: number; sem: number; isWorkedOnAtOutputSize: boolean },
): Promise<number> {
  let sum = 0;
  for (const name of photos) {
    const { original, low } = await pairOf(name, scale);
    const { width, height } = outputSize(low, scale);
    const maxOutputPixels = isWorkedOnAtOutputSize ? width * height : anySize;
    const params = {
      ...resolveParams({ ...at, scale }, model.manifest.name),
      format: 'png' as const,
    };
    const limits = { maxInputPixels: anySize, maxOutputPixels, maxRestoredPixels: maxOutputPixels };
    const { image } = await upscale(await pngOf(low), params, { model, limits });
    sum += psnr(await planesOf(image), original) - psnr(resized(low, original), original);
  }
  return sum / photos.length;
}

const model = await loadModel(path.join(root, 'models/pisa-tiny'), { executionProvider: 'cpu' });
const rows: string[][] = [];
for (const scale of scales) {
  for (const at of dials) {
    const cells: string[] = [];
    for (const isWorkedOnAtOutputSize of [false, true]) {
      const decibels = await gain(model, scale, { ...at, isWorkedOnAtOutputSize });
      cells.push(`${decibels > 0 ? '+' : ''}${decibels.toFixed(2)} dB`);
    }
    rows.push([`${scale}`, `(${at.pix}, ${at.sem})`, ...cells]);
  }
}
const { name, version, scale: trainedFor } = model.manifest;
await model.dispose();

writeResult(
  'scales',
  `# Scales below the model's

${name} ${version}, trained for ×${trainedFor}; the ${photos.length} photos of test/photos, reduced by \`scale\` (bicubic) and brought back. Mean PSNR over bicubic's.

${table(['scale', '(pix, sem)', `worked on at ×${trainedFor}, then reduced`, 'worked on at the size of the output'], rows)}
`,
);
