import { expect, test } from 'vitest';
import { putHeatColors } from '../../../src/pipeline/heat-colors.ts';

const stops = [
  [0, 0, 0],
  [80, 20, 110],
  [185, 50, 85],
  [245, 140, 30],
  [255, 255, 190],
];

function colorsOf(values: number[], most: number): number[] {
  const samples = new Uint8ClampedArray(3 * values.length);
  putHeatColors(Float32Array.from(values), most, samples);
  return [...samples];
}

test('goes through five colours, straight from each to the next', () => {
  expect(colorsOf([0, 0.25, 0.5, 0.75, 1], 1)).toEqual(stops.flat());
  const most = 3;
  const values = Array.from({ length: 2001 }, (_, i) => Math.fround((most * i) / 2000));
  const wanted = values.flatMap((value) => {
    const position = (4 * value) / most;
    const segment = Math.min(3, Math.floor(position));
    return [0, 1, 2].map((c) => {
      const [from, to] = [stops[segment]?.[c] ?? 0, stops[segment + 1]?.[c] ?? 0];
      return from + (to - from) * (position - segment);
    });
  });
  expect(colorsOf(values, most)).toEqual([...Uint8ClampedArray.from(wanted)]);
});

test('stays at its ends beyond them, and is black where there is nothing', () => {
  expect(colorsOf([-1, 7], 2)).toEqual([...(stops[0] ?? []), ...(stops[4] ?? [])]);
  expect(colorsOf([0, 1], 0)).toEqual([0, 0, 0, 0, 0, 0]);
});
