/**
 * The embedded bundle on a photo larger than its tiles, against one run of each graph on the whole image.
 * At 512² → 2048²; `TILING_SIDE` chooses another side of the input, in pixels.
 */
import { readFileSync } from 'node:fs';
import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sharp } from '../../src/images/sharp-policy.ts';
import { planGeometry } from '../../src/pipeline/geometry.ts';
import type { Manifest } from '../../src/pipeline/manifest.ts';
import { loadModel, type Model } from '../../src/pipeline/model.ts';
import { planTiles } from '../../src/pipeline/tiles.ts';
import { upscale } from '../../src/pipeline/upscale.ts';

const side = Number(process.env.TILING_SIDE ?? 512);
const outputSide = 4 * side;
const bundle = fileURLToPath(new URL('../../models/pisa-tiny', import.meta.url));
const photo = fileURLToPath(new URL('../photos/coffee-150x100.jpg', import.meta.url));
const timeoutMs = 900_000;

let folder: string;
let tiled: Model;
let whole: Model;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-whole-'));
  const copy = path.join(folder, path.basename(bundle));
  await cp(bundle, copy, { recursive: true });
  const file = path.join(copy, 'manifest.json');
  const manifest = JSON.parse(await readFile(file, 'utf8')) as Manifest;
  for (const graph of Object.values(manifest.graphs)) graph.tileLatents = 4096;
  await writeFile(file, JSON.stringify(manifest));
  tiled = await loadModel(bundle, { executionProvider: 'cpu' });
  whole = await loadModel(copy, { executionProvider: 'cpu' });
});
afterAll(async () => {
  await tiled.dispose();
  await whole.dispose();
  await rm(folder, { recursive: true });
});

const atOnce = { maxInputPixels: 2 ** 24, maxOutputPixels: 2 ** 26, maxRestoredPixels: 0 };

async function pixelsOf(
  model: Model,
  pix: number,
  sem: number,
  scale = 4,
  limits = atOnce,
): Promise<Buffer> {
  const lowRes = await sharp(readFileSync(photo))
    .resize(side, side, { fit: 'fill', kernel: 'lanczos3' })
    .png()
    .toBuffer();
  const format = { format: 'png', quality: 90, metadata: 'none', colorfix: 'none' } as const;
  const params = { pix, sem, scale, model: model.manifest.name, ...format };
  const { image } = await upscale(lowRes, params, { model, limits });
  return sharp(image, { limitInputPixels: false }).raw().toBuffer();
}

type Axis = 'columns' | 'rows';

/** Mean of |a step onto the given lines of an axis| of an RGB image, in levels. */
function meanStep(pixels: Buffer, axis: Axis, lines: readonly number[], side = outputSide): number {
  const [along, across] = axis === 'columns' ? [3 * side, 3] : [3, 3 * side];
  let sum = 0;
  for (let i = 0; i < side; i++) {
    for (const line of lines) {
      for (let c = 0; c < 3; c++) {
        const at = i * along + line * across + c;
        sum += Math.abs((pixels[at] as number) - (pixels[at - across] as number));
      }
    }
  }
  return sum / (3 * side * lines.length);
}

function compare(a: Buffer, b: Buffer): { max: number; psnr: number } {
  let max = 0;
  let squares = 0;
  for (let i = 0; i < a.length; i++) {
    const delta = Math.abs((a[i] as number) - (b[i] as number));
    max = Math.max(max, delta);
    squares += delta * delta;
  }
  return { max, psnr: 10 * Math.log10((255 * 255 * a.length) / squares) };
}

/** Where all tiles but the first begin: the decoder's hard cuts, the middle of the UNet's blending. */
function tileBorders(graph: 'unet' | 'decoder', axis: Axis): number[] {
  const { graphs, latents } = tiled.manifest;
  const cells = { height: outputSide / latents.downscale, width: outputSide / latents.downscale };
  const { spans } = planTiles(cells, graphs[graph], tiled.tilePolicy)[axis];
  return spans.slice(1).map(({ ownStart }) => ownStart * latents.downscale);
}

const report = (text: string) => process.stdout.write(`${side}² → ${outputSide}²: ${text}\n`);

describe('tiled against untiled', () => {
  it(
    'encoder and decoder: equal within one level everywhere',
    async () => {
      const { max, psnr } = compare(await pixelsOf(tiled, 0, 0), await pixelsOf(whole, 0, 0));
      report(`encoder and decoder differ by at most ${max}/255 (${psnr.toFixed(1)} dB)`);
      expect(max).toBeLessThanOrEqual(1);
    },
    timeoutMs,
  );

  it(
    'with the UNet: within 50 dB, and no step across a tile border',
    async () => {
      const [inTiles, untiled] = [await pixelsOf(tiled, 1, 1), await pixelsOf(whole, 1, 1)];
      const { max, psnr } = compare(inTiles, untiled);
      report(`with the UNet ${psnr.toFixed(1)} dB, at most ${max}/255`);
      expect(psnr).toBeGreaterThan(50);
      for (const graph of ['unet', 'decoder'] as const) {
        const axes = (['columns', 'rows'] as const).filter(
          (axis) => tileBorders(graph, axis).length > 0,
        );
        expect(axes.length, `${graph}: axes that are cut`).toBeGreaterThan(0);
        for (const axis of axes) {
          const borders = tileBorders(graph, axis);
          const ratio = meanStep(inTiles, axis, borders) / meanStep(untiled, axis, borders);
          report(`steps across the ${graph}'s ${axis}: ${ratio.toFixed(4)} of the untiled ones`);
          expect(Math.abs(ratio - 1)).toBeLessThan(0.02);
        }
      }
    },
    timeoutMs,
  );
});

it(
  'in sections: within 50 dB of the whole, and no step across a cut',
  async () => {
    const scale = 2;
    const limits = {
      ...atOnce,
      maxOutputPixels: 0.75 * outputSide ** 2,
      maxRestoredPixels: 2 ** 26,
    };
    const { maxOutputPixels, maxRestoredPixels } = limits;
    const size = { width: side, height: side };
    const { sections } = planGeometry(size, scale, tiled, maxOutputPixels, maxRestoredPixels);
    const [cut, uncut] = [
      await pixelsOf(tiled, 1, 1, scale, limits),
      await pixelsOf(tiled, 1, 1, scale),
    ];
    const { max, psnr } = compare(cut, uncut);
    report(
      `scale ${scale} in ${sections.length} sections: ${psnr.toFixed(1)} dB, at most ${max}/255`,
    );
    expect(psnr).toBeGreaterThan(50);
    const cuts = {
      columns: [...new Set(sections.map(({ place }) => place.x))].filter((x) => x > 0),
      rows: [...new Set(sections.map(({ place }) => place.y))].filter((y) => y > 0),
    };
    expect(cuts.columns.length + cuts.rows.length).toBeGreaterThan(0);
    for (const axis of ['columns', 'rows'] as const) {
      if (cuts[axis].length === 0) continue;
      const step = (pixels: Buffer) => meanStep(pixels, axis, cuts[axis], scale * side);
      const ratio = step(cut) / step(uncut);
      report(`steps across the sections' ${axis}: ${ratio.toFixed(4)} of those of the whole`);
      expect(Math.abs(ratio - 1)).toBeLessThan(0.05);
    }
  },
  timeoutMs,
);
