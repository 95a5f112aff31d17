import { describe, expect, it } from 'vitest';
import { float16ToFloat32, float32ToFloat16 } from '../../../src/pipeline/float16.ts';

const toHalf = (value: number) =>
  float32ToFloat16(Float32Array.of(value), new Uint16Array(1))[0] as number;
const toFloat = (half: number) =>
  float16ToFloat32(Uint16Array.of(half), new Float32Array(1))[0] as number;

describe('float16', () => {
  it.each([
    [0, 0x0000],
    [-0, 0x8000],
    [1, 0x3c00],
    [-2, 0xc000],
    [65504, 0x7bff],
    [0.333251953125, 0x3555],
    [2 ** -14, 0x0400],
    [2 ** -24, 0x0001],
    [1023 * 2 ** -24, 0x03ff],
    [Number.POSITIVE_INFINITY, 0x7c00],
    [Number.NEGATIVE_INFINITY, 0xfc00],
  ])('%d is 0x%s, both ways', (value, half) => {
    expect(toHalf(value)).toBe(half);
    expect(toFloat(half)).toBe(value);
  });

  it('keeps each of the 65,536 halves through a round trip', () => {
    const halves = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const floats = float16ToFloat32(halves, new Float32Array(65536));
    const back = float32ToFloat16(floats, new Uint16Array(65536));
    for (let i = 0; i < 65536; i++) {
      const isNaNHalf = (i & 0x7c00) === 0x7c00 && (i & 0x3ff) !== 0;
      if (isNaNHalf) expect(floats[i]).toBeNaN();
      else if (back[i] !== i) expect.fail(`0x${i.toString(16)} became 0x${back[i]?.toString(16)}`);
    }
  });

  it('rounds to the nearest half, ties to even', () => {
    expect(toHalf(1 + 2 ** -11)).toBe(0x3c00);
    expect(toHalf(1 + 3 * 2 ** -11)).toBe(0x3c02);
    expect(toHalf(1 + 2 ** -11 + 2 ** -20)).toBe(0x3c01);
    expect(toHalf(1.5 * 2 ** -24)).toBe(0x0002);
    expect(toHalf(2.5 * 2 ** -24)).toBe(0x0002);
    expect(toHalf(2 ** -26)).toBe(0);
    expect(toHalf(2048 - 0.25)).toBe(0x6800);
  });

  it('overflows to infinity and keeps NaN', () => {
    expect(toHalf(65519.99)).toBe(0x7bff);
    expect(toHalf(65520)).toBe(0x7c00);
    expect(toHalf(-1e9)).toBe(0xfc00);
    expect(toFloat(toHalf(Number.NaN))).toBeNaN();
  });

  it('is never further off than half a step, for many values', () => {
    for (let i = 0; i < 10_000; i++) {
      const value = Math.fround(Math.sin(i) * 2 ** ((i % 30) - 15));
      const step = 2 ** (Math.max(-14, Math.floor(Math.log2(Math.abs(value)))) - 10);
      expect(Math.abs(toFloat(toHalf(value)) - value)).toBeLessThanOrEqual(step / 2);
    }
  });
});
