/** Every stage against the numbers that NumPy, Pillow and PyTorch's formulas give. */
import { describe, expect, it } from 'vitest';
import { addBlended, gaussianWeights, normalizedAxisWeights } from '../../../src/pipeline/blend.ts';
import { adain } from '../../../src/pipeline/color-fix/adain.ts';
import { wavelet } from '../../../src/pipeline/color-fix/wavelet.ts';
import { combine, subtractResidual } from '../../../src/pipeline/combine.ts';
import { Planar } from '../../../src/pipeline/planar.ts';
import { Resampled } from '../../../src/pipeline/resample.ts';
import { RunControl } from '../../../src/pipeline/run-control.ts';
import { difference, type FixtureArray, floats, planar, readFixture } from './fixtures.ts';

describe('the tolerance helper', () => {
  const values = Float32Array.from({ length: 1000 }, (_, i) => Math.sin(i));

  it('sees one perturbed value among many', () => {
    const perturbed = values.slice();
    perturbed[777] = (perturbed[777] as number) + 1e-3;
    expect(difference(values, values)).toEqual({ max: 0, psnr: Number.POSITIVE_INFINITY });
    expect(difference(values, perturbed).max).toBeGreaterThan(9e-4);
    expect(difference(values, perturbed).psnr).toBeLessThan(100);
  });

  it('lets no NaN and no other size pass', () => {
    const broken = values.slice();
    broken[0] = Number.NaN;
    expect(difference(values, broken).max).toBeNaN();
    expect(() => difference(values, values.subarray(1))).toThrow('Cannot compare');
  });
});

describe('Resampled', () => {
  interface Case {
    name: string;
    input: FixtureArray;
    output: FixtureArray;
  }
  const cases = readFixture<Case[]>('resample.json');

  it.each(cases.map((one) => [one.name, one] as const))('equals Pillow: %s', (_, one) => {
    const output = planar(one.output);
    const resampled = new Resampled(planar(one.input), output);
    const whole = new Float32Array(output.data.length);
    resampled.read({ y: 0, x: 0, height: output.height, width: output.width }, whole);
    expect(difference(whole, output.data).max).toBeLessThan(1e-3);
  });

  it('gives the same pixels whatever the rectangle, and repeats the edge beyond the image', () => {
    const input = new Planar(2, 9, 7);
    for (let i = 0; i < input.data.length; i++) input.data[i] = Math.sin(i * i);
    const resampled = new Resampled(input, { width: 25, height: 33 });
    const whole = new Float32Array(2 * 33 * 25);
    resampled.read({ y: 0, x: 0, height: 33, width: 25 }, whole);
    const part = new Float32Array(2 * 12 * 14);
    resampled.read({ y: 26, x: 15, height: 12, width: 14 }, part);
    for (let c = 0; c < 2; c++) {
      for (let y = 0; y < 12; y++) {
        for (let x = 0; x < 14; x++) {
          const at = (c * 33 + Math.min(32, 26 + y)) * 25 + Math.min(24, 15 + x);
          expect(part[(c * 12 + y) * 14 + x]).toBe(whole[at]);
        }
      }
    }
  });
});

describe('combine (Eq. 8)', () => {
  interface Combine {
    latents: FixtureArray;
    epsPix: FixtureArray;
    epsPisa: FixtureArray;
    scalars: { lambdaPix: number; lambdaSem: number; output: FixtureArray }[];
    maps: { lambdaPix: FixtureArray; lambdaSem: FixtureArray; output: FixtureArray };
  }
  const fixture = readFixture<Combine>('combine.json');

  async function restored(lambdaPix: number | Float32Array, lambdaSem: number | Float32Array) {
    const latents = planar(fixture.latents);
    const residual = planar(fixture.epsPix);
    combine(residual.data, floats(fixture.epsPisa), lambdaPix, lambdaSem, residual.data);
    await subtractResidual(latents, residual, new RunControl());
    return latents.data;
  }

  it.each(fixture.scalars)('λ = ($lambdaPix, $lambdaSem)', async (one) => {
    const result = await restored(one.lambdaPix, one.lambdaSem);
    expect(difference(result, floats(one.output)).max).toBeLessThan(1e-5);
  });

  it('maps of one λ per cell, and a map with a number', async () => {
    const { lambdaPix, lambdaSem, output } = fixture.maps;
    const maps = await restored(floats(lambdaPix), floats(lambdaSem));
    expect(difference(maps, floats(output)).max).toBeLessThan(1e-5);
    const cells = floats(lambdaPix).length;
    const constant = await restored(0.7, new Float32Array(cells).fill(0.3));
    expect(difference(constant, await restored(0.7, 0.3)).max).toBeLessThan(1e-6);
  });
});

describe('colour fix', () => {
  interface Case {
    name: string;
    target: FixtureArray;
    source: FixtureArray;
    adain: FixtureArray;
    wavelet: FixtureArray;
  }
  const cases = readFixture<Case[]>('color-fix.json');
  const methods = { adain, wavelet };

  for (const method of ['adain', 'wavelet'] as const) {
    it.each(cases.map((one) => [one.name, one] as const))(`${method}: %s`, async (_, one) => {
      const target = planar(one.target);
      const source = planar(one.source);
      await methods[method](target, new Resampled(source, source), new RunControl());
      expect(difference(target.data, floats(one[method])).max).toBeLessThan(1e-5);
    });
  }

  it('wavelet is the same along rows as along columns, over several bands', async () => {
    // Transposed, the bands begin elsewhere, and the blurs along rows and across them change places.
    const [channels, height, width] = [2, 300, 1100];
    const wide = new Planar(channels, height, width);
    const source = new Planar(channels, height, width);
    for (let i = 0; i < wide.data.length; i++) {
      wide.data[i] = 0.5 + 0.5 * Math.sin(i * 0.37);
      source.data[i] = 0.5 + 0.5 * Math.cos(i * 0.0021);
    }
    const transpose = (image: Planar) => {
      const flipped = new Planar(channels, image.width, image.height);
      const plane = image.width * image.height;
      for (let i = 0; i < image.data.length; i++) {
        const [c, y, x] = [
          Math.floor(i / plane),
          Math.floor((i % plane) / image.width),
          i % image.width,
        ];
        flipped.data[c * plane + x * image.height + y] = image.data[i] as number;
      }
      return flipped;
    };
    const tall = transpose(wide);
    const tallSource = transpose(source);
    await wavelet(wide, new Resampled(source, source), new RunControl());
    await wavelet(tall, new Resampled(tallSource, tallSource), new RunControl());
    expect(difference(wide.data, transpose(tall).data).max).toBeLessThan(1e-6);
  });

  it('adain leaves an image alone that has the statistics of its reference', async () => {
    const one = planar((cases[0] as Case).source);
    const before = one.data.slice();
    await adain(one, new Resampled(planar((cases[0] as Case).source), one), new RunControl());
    expect(difference(one.data, before).max).toBeLessThan(1e-6);
  });
});

describe('Gaussian blending', () => {
  interface Tiles {
    weights: { height: number; width: number; output: FixtureArray }[];
    blend: {
      height: number;
      width: number;
      tiles: { y: number; x: number; data: FixtureArray }[];
      output: FixtureArray;
    };
  }
  const fixture = readFixture<Tiles>('tiles.json');

  it.each(fixture.weights)('weights of a $height × $width tile', ({ height, width, output }) => {
    const rows = gaussianWeights(height);
    const columns = gaussianWeights(width);
    const product = Array.from(rows, (row) => Array.from(columns, (column) => row * column)).flat();
    const wanted = floats(output);
    const relative = product.map((value, i) => value / (wanted[i] as number));
    expect(difference(relative, new Float32Array(relative.length).fill(1)).max).toBeLessThan(1e-6);
  });

  it('the weighted mean of overlapping tiles', () => {
    const { height, width, tiles, output } = fixture.blend;
    const starts = (of: 'y' | 'x') => [...new Set(tiles.map((tile) => tile[of]))];
    const axis = (of: 'y' | 'x') => ({
      tile: tiles[0]?.data.shape[1] as number,
      spans: starts(of).map((start) => ({ start, ownStart: start, ownEnd: start })),
    });
    const rowWeights = normalizedAxisWeights(axis('y'), height);
    const columnWeights = normalizedAxisWeights(axis('x'), width);
    const blended = new Planar(2, height, width);
    for (const { y, x, data } of tiles) {
      const tile = {
        region: { y, x, height: data.shape[1] as number, width: data.shape[2] as number },
        own: { y, x, height: 0, width: 0 },
        row: starts('y').indexOf(y),
        column: starts('x').indexOf(x),
      };
      const rows = rowWeights[tile.row] as Float64Array;
      addBlended(blended, tile, floats(data), rows, columnWeights[tile.column] as Float64Array);
    }
    expect(difference(blended.data, floats(output)).max).toBeLessThan(1e-5);
  });
});
