/** Where finished tiles and strips of pixels go: into float planes that something still works on, or into the output. */
import type { PixelSize } from '../jobs/output-size.ts';
import { bandsOf } from './bands.ts';
import type { Planar } from './planar.ts';
import type { RunControl } from './run-control.ts';

/** Neighbours in one row of an image: as many values of red, of green and of blue, each in about [0,1]. */
export interface PixelRun {
  readonly values: Float32Array;
  /** Where red begins. */
  readonly start: number;
  /** How far behind red green begins, and blue behind green. */
  readonly stride: number;
  /** In pixels. */
  readonly length: number;
}

export interface PixelSink extends PixelSize {
  /** Copies a run that lies within the sink, and begins at (y, x). */
  put(y: number, x: number, run: PixelRun): void;
}

/** @param planes [3,H,W], which get the values as they are */
export function planeSink(planes: Planar): PixelSink {
  const { width, height } = planes;
  return {
    width,
    height,
    put(y, x, { values, start, stride, length }) {
      for (let c = 0; c < 3; c++) {
        const from = start + c * stride;
        planes.data.set(values.subarray(from, from + length), (c * height + y) * width + x);
      }
    },
  };
}

/** @param planes [3,H,W] of the sink's size */
export async function putPlanes(
  planes: Planar,
  sink: PixelSink,
  control: RunControl,
): Promise<void> {
  const { width, height, data } = planes;
  for (const band of bandsOf(planes)) {
    for (let y = band.y; y < band.y + band.height; y++) {
      sink.put(y, 0, { values: data, start: y * width, stride: height * width, length: width });
    }
    await control.breathe();
  }
}
