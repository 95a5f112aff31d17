/** The decoder's pixels straight into 8 bits, against float planes that are put into 8 bits afterwards. */
import { describe, expect, it, vi } from 'vitest';
import { prepareColorFix } from '../../../src/pipeline/color-fix/color-fix.ts';
import { decodeLatents } from '../../../src/pipeline/decode-latents.ts';
import { planeSink, putPlanes } from '../../../src/pipeline/pixel-sink.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { Resampled } from '../../../src/pipeline/resample.ts';
import type { Run } from '../../../src/pipeline/run.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { Samples } from '../../../src/pipeline/samples.ts';
import { bundlePath, difference, fixturePath } from './fixtures.ts';
import { changedBundle, loadOnCpu } from './run.ts';

/** Beyond what any photo gives, so that pixels are clipped at both ends. */
function waves(channels: number, height: number, width: number): Planar {
  const latents = new Planar(channels, height, width);
  for (const i of latents.data.keys()) latents.data[i] = 3 * Math.sin(0.7 * i + 0.01 * i * i);
  return latents;
}

/** As each sample is to be rounded: from float32, ties to even. */
function interleaved({ data }: Planar): Uint8ClampedArray {
  const pixels = data.length / 3;
  return Uint8ClampedArray.from(
    data,
    (_, i) => 255 * (data[(i % 3) * pixels + Math.floor(i / 3)] as number),
  );
}

describe('decodeLatents', () => {
  it.each([
    { how: 'in one tile', bundle: bundlePath('blur'), tileLatents: 64, graphRuns: 1 },
    { how: 'in tiles', bundle: bundlePath('blur'), tileLatents: 16, graphRuns: 12 },
    { how: 'whole', bundle: fixturePath('stages/sd-small'), tileLatents: 64, graphRuns: 1 },
    { how: 'in strips', bundle: fixturePath('stages/sd-small'), tileLatents: 28, graphRuns: 0 },
  ])('gives the same bytes through float planes and without, $how', async (row) => {
    const changed = await changedBundle(row.bundle, ({ graphs }) => {
      Object.assign(graphs.decoder, { tileLatents: row.tileLatents });
    });
    const model = await loadOnCpu(changed);
    const graph = vi.spyOn(model, 'decodeLatents');
    const { channels, downscale } = model.manifest.latents;
    const latents = waves(channels, 28, 44);
    // Neither side is whole cells: the rest is padding.
    const output = { width: 44 * downscale - 3, height: 28 * downscale - 5 };
    const control = new RunControl();
    const planes = new Planar(3, output.height, output.width);
    await decodeLatents(latents, planeSink(planes), model, control);
    expect(graph).toHaveBeenCalledTimes(row.graphRuns);
    const wanted = interleaved(planes);
    expect(planes.data.every((value) => value >= 0 && value <= 1)).toBe(true);
    expect(wanted.includes(0)).toBe(true);
    expect(new Set(wanted).size).toBeGreaterThan(150);

    const direct = new Samples(output);
    await decodeLatents(latents, direct, model, control);
    expect(difference(direct.data, wanted).max).toBe(0);

    const after = new Samples(output);
    await putPlanes(planes, after, control);
    expect(difference(after.data, wanted).max).toBe(0);

    // In a picture with alpha, and in the corner of a larger one.
    const [translucent, sheet] = [
      new Samples(output, 4),
      new Samples({ width: output.width + 9, height: output.height + 7 }),
    ];
    await decodeLatents(latents, translucent, model, control);
    const colors = translucent.data.filter((_, i) => i % 4 < 3);
    expect(difference(colors, wanted).max).toBe(0);
    expect(translucent.data.every((value, i) => i % 4 < 3 || value === 0)).toBe(true);
    await decodeLatents(latents, sheet.part({ y: 7, x: 9, ...output }), model, control);
    const line = 3 * output.width;
    const corner = wanted.map((_, i) => {
      const start = 3 * ((7 + Math.floor(i / line)) * sheet.width + 9);
      return sheet.data[start + (i % line)] as number;
    });
    expect(difference(corner, wanted).max).toBe(0);
    // And nothing beside it.
    const sum = (values: Uint8ClampedArray) => values.reduce((total, value) => total + value, 0);
    expect(sum(sheet.data)).toBe(sum(wanted));
    await model.dispose();
  });
});

describe('prepareColorFix', () => {
  const photo = new Planar(3, 4, 6);
  const size = { width: 12, height: 8 };
  const prepare = (output: Samples, colorfix: Run['colorfix'], isGrey: boolean) =>
    prepareColorFix(output, new Resampled(photo, size), {
      colorfix,
      input: { isGrey },
      control: new RunControl(),
    } as Run);

  it.each([
    { colorfix: 'none', isGrey: false, direct: true },
    { colorfix: 'none', isGrey: true, direct: false },
    { colorfix: 'adain', isGrey: false, direct: false },
    { colorfix: 'wavelet', isGrey: false, direct: false },
  ] as const)(
    '$colorfix, grey $isGrey: float planes only where they are worked on',
    async (row) => {
      const output = new Samples(size);
      const { decoded, finish } = prepare(output, row.colorfix, row.isGrey);
      expect(decoded === output).toBe(row.direct);
      const values = Float32Array.from({ length: 3 * 12 }, (_, i) => i / 36);
      for (let y = 0; y < size.height; y++) {
        decoded.put(y, 0, { values, start: 0, stride: 12, length: 12 });
      }
      expect(output.data.some((value) => value > 0)).toBe(row.direct);
      await finish();
      if (row.direct) expect([...output.data.subarray(0, 3)]).toEqual([0, 85, 170]);
      if (row.isGrey) expect(new Set(output.data.subarray(0, 3)).size).toBe(1);
    },
  );
});
