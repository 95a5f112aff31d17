/** Reads the numbers that the Python side exports (test/fixtures/README.md), and compares arrays with them. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Planar } from '../../../src/pipeline/planar.ts';

export interface FixtureArray {
  shape: number[];
  dtype: 'float32' | 'uint8';
  data: string;
}

export const fixturePath = (name: string): string =>
  fileURLToPath(new URL(`../../fixtures/${name}`, import.meta.url));

export const photoPath = (name: string): string =>
  fileURLToPath(new URL(`../../photos/${name}`, import.meta.url));

export const bundlePath = (name: string): string => fixturePath(`bundles/${name}`);

export const embeddedBundle = fileURLToPath(new URL('../../../models/pisa-tiny', import.meta.url));

export const readFixture = <T>(name: string): T =>
  JSON.parse(readFileSync(fixturePath(name), 'utf8')) as T;

export function floats(array: FixtureArray): Float32Array {
  const bytes = Uint8Array.from(Buffer.from(array.data, 'base64'));
  return array.dtype === 'float32' ? new Float32Array(bytes.buffer) : Float32Array.from(bytes);
}

export function bytesOf(array: FixtureArray): Uint8Array {
  return Uint8Array.from(Buffer.from(array.data, 'base64'));
}

/** The last three (or two) dimensions of an array as planes. */
export function planar(array: FixtureArray): Planar {
  const [width = 0, height = 0, channels = 1] = [...array.shape].reverse();
  const planes = new Planar(channels, height, width);
  planes.data.set(floats(array));
  return planes;
}

export interface Difference {
  /** Largest absolute difference. */
  max: number;
  /** 10·log10(peak² / mean squared difference), in dB. */
  psnr: number;
}

/**
 * How far two arrays are apart. Sizes must agree, and a NaN anywhere makes both figures NaN, which no
 * tolerance lets pass.
 * @param peak of the signal, for the PSNR
 */
export function difference(a: ArrayLike<number>, b: ArrayLike<number>, peak = 1): Difference {
  if (a.length !== b.length || a.length === 0) {
    throw new Error(`Cannot compare ${a.length} with ${b.length} values.`);
  }
  let max = 0;
  let squares = 0;
  for (let i = 0; i < a.length; i++) {
    const delta = Math.abs((a[i] as number) - (b[i] as number));
    max = Number.isNaN(delta) ? delta : Math.max(max, delta);
    squares += delta * delta;
  }
  return { max, psnr: 10 * Math.log10((peak * peak * a.length) / squares) };
}

export const largest = (values: Float32Array): number =>
  values.reduce((max, value) => Math.max(max, Math.abs(value)), 0);
