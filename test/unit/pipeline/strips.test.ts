/** Autoencoders that see the whole image, on images larger than a tile: in strips, exactly. */
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { freemem } from 'node:os';
import { describe, expect, it } from 'vitest';
import { type Manifest, parseManifest } from '../../../src/pipeline/manifest.ts';
import { PooledStatistics } from '../../../src/pipeline/strips/pooled-statistics.ts';
import { stripRows } from '../../../src/pipeline/strips/run-strips.ts';
import type { StripsManifest } from '../../../src/pipeline/strips/schema.ts';
import { StoredRows } from '../../../src/pipeline/strips/stored-rows.ts';
import { fixturePath } from './fixtures.ts';
import { changedBundle, loadOnCpu, type Pixels, picture, pixelsOf, run } from './run.ts';

const bundle = (name: string) => fixturePath(`stages/${name}`);

/** The bundle with other tile sizes, or without its stages, on a picture of 40 × 28 → 160 × 112. */
async function restored(
  name: string,
  tileLatents: number,
  { strips, dials }: { strips: boolean; dials: number },
): Promise<Pixels> {
  const changed = await changedBundle(bundle(name), ({ graphs }) => {
    for (const [graphName, graph] of Object.entries(graphs)) {
      graph.tileLatents = graphName === 'unet' ? 4096 : tileLatents;
      if (!strips) delete graph.strips;
    }
  });
  const model = await loadOnCpu(changed);
  const { image } = await run(await picture(40, 28), model, {
    pix: dials,
    sem: dials,
    colorfix: 'none',
  });
  await model.dispose();
  return pixelsOf(image);
}

function differ(a: Pixels, b: Pixels): { max: number; psnr: number } {
  let [max, squares] = [0, 0];
  for (const [i, value] of a.data.entries()) {
    const delta = Math.abs(value - (b.data[i] as number));
    max = Math.max(max, delta);
    squares += delta * delta;
  }
  return { max, psnr: 10 * Math.log10((255 * 255 * a.data.length) / squares) };
}

describe('an autoencoder in strips', () => {
  it('gives what it gives on the whole image, where tiles do not', {
    timeout: 180_000,
  }, async () => {
    const whole = await restored('sd-small', 4096, { strips: true, dials: 0 });
    const strips = await restored('sd-small', 40, { strips: true, dials: 0 });
    expect(differ(strips, whole).max).toBeLessThanOrEqual(1);
    const tiles = await restored('sd-small', 40, { strips: false, dials: 0 });
    expect(differ(tiles, whole).psnr).toBeLessThan(45);
  });

  it('works in float16, with the UNet in between', { timeout: 180_000 }, async () => {
    const whole = await restored('sd-small-fp16', 4096, { strips: true, dials: 1 });
    const strips = await restored('sd-small-fp16', 40, { strips: true, dials: 1 });
    expect(differ(strips, whole).psnr).toBeGreaterThan(45);
  });

  it('closes its files and stops between two strips when it is cancelled', async () => {
    const changed = await changedBundle(bundle('sd-small'), ({ graphs }) => {
      graphs.encoder.tileLatents = 40;
    });
    const model = await loadOnCpu(changed);
    const openFiles = () => readdirSync('/proc/self/fd').length;
    const abort = new AbortController();
    const before = openFiles();
    const fractions: number[] = [];
    const running = run(
      await picture(40, 28),
      model,
      {},
      {
        signal: abort.signal,
        onProgress: ({ stage, fraction }) => {
          fractions.push(fraction);
          if (stage === 'encode_latents' && fractions.length > 12) abort.abort(new Error('enough'));
        },
      },
    );
    await expect(running).rejects.toThrow('enough');
    expect(openFiles()).toBeLessThanOrEqual(before);
    expect([...fractions].sort((a, b) => a - b)).toEqual(fractions);
    await model.dispose();
  });
});

describe('stripRows', () => {
  const job = { latentWidth: 100, stripCells: 1000 };

  it.each([
    // At the latents' resolution 10 rows have 1000 cells; 35 rows are 4 strips of at most 9.
    { out: { height: 35, width: 100 }, scale: 1, rows: 9 },
    { out: { height: 64, width: 200 }, scale: 1, rows: 16 },
    // Two rows for each that is read.
    { out: { height: 30, width: 200 }, scale: 2, rows: 16 },
    // What is read is twice as wide: half as many rows are written.
    { out: { height: 40, width: 100 }, scale: 0.5, rows: 10 },
  ])('$out, scale $scale → $rows', ({ out, scale, rows }) => {
    expect(stripRows(out, scale, job)).toBe(rows);
  });

  it('is a row where a row alone is too much', () => {
    const wide = { latentWidth: 5000, stripCells: 1000 };
    expect(stripRows({ height: 8, width: 5000 }, 1, wide)).toBe(1);
    expect(stripRows({ height: 8, width: 10_000 }, 2, wide)).toBe(2);
  });
});

describe('PooledStatistics', () => {
  it('has the variance between parts too', () => {
    const pooled = new PooledStatistics(1);
    // 1 and 3, then 8 alone.
    pooled.add({ mean: Float32Array.of(2), variance: Float32Array.of(1) }, 2);
    pooled.add({ mean: Float32Array.of(8), variance: Float32Array.of(0) }, 1);
    expect(pooled.result().mean[0]).toBeCloseTo(4, 6);
    expect(pooled.result().variance[0]).toBeCloseTo((9 + 1 + 16) / 3, 5);
  });
});

describe('StoredRows', () => {
  it('reads back what was written, in parts and in any order', async () => {
    const stored = await StoredRows.create(8);
    await stored.write(2, Float32Array.of(5, 6));
    await stored.write(0, Float32Array.of(1, 2, 3, 4));
    const rows = new Float32Array(6);
    await stored.read(0, rows);
    expect([...rows]).toEqual([1, 2, 3, 4, 5, 6]);
    await expect(stored.read(3, new Float32Array(2))).rejects.toThrow(/before it was written/);
    await stored.close();
  });

  // As a strip of a GPU with 80 GB may be. Of the file all but the end is a hole.
  it.skipIf(freemem() < 6e9)('reads 2 GiB and more at once', async () => {
    const stored = await StoredRows.create(2);
    await stored.write(2 ** 30, Uint16Array.of(7));
    const rows = new Uint16Array(2 ** 30 + 1);
    await stored.read(0, rows);
    expect(rows.at(-1)).toBe(7);
    await stored.close();
  });
});

describe('the manifest of a bundle with stages', () => {
  type Stages = StripsManifest['stages'];

  it.each<[string, (stages: Stages, strips: StripsManifest) => void, RegExp]>([
    ['a tensor from nowhere', (s) => change(s[2]?.reads[0], { tensor: 30 }), /written before/],
    ['statistics of none', (s) => change(s[2], { statistics: 0 }), /a tensor with statistics/],
    ['a tensor written twice', (s) => change(s[1]?.writes[0], { tensor: 1 }), /a new tensor/],
    ['a stage beyond the file', (s) => change(s[1], { offset: 10 ** 9 }), /the end of/],
    ['another scale', (s) => change(s[1], { scale: 3 }), /scale/],
    ['a path', (_, strips) => change(strips, { file: '../a.stages' }), /strips\/file/],
  ])('refuses %s', async (_, damage, reason) => {
    const text = await readFile(`${bundle('sd-small')}/manifest.json`, 'utf8');
    const manifest = JSON.parse(text) as Manifest;
    const strips = manifest.graphs.decoder.strips as StripsManifest;
    damage(strips.stages, strips);
    expect(() => parseManifest(JSON.stringify(manifest), 'here')).toThrow(reason);
  });

  function change(part: object | undefined, values: object): void {
    Object.assign(part as object, values);
  }
});
