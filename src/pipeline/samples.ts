/** A picture in memory as the encoders take it: interleaved, 8 bits. */
import type { PixelSize } from '../jobs/output-size.ts';
import type { PixelRun, PixelSink } from './pixel-sink.ts';
import type { Region } from './planar.ts';

/** [height, width, channels], black until something is put into it. */
export class Samples implements PixelSink {
  readonly width: number;
  readonly height: number;
  readonly channels: 3 | 4;
  #data: Uint8ClampedArray | undefined;

  /** @param channels 4 leaves room for alpha */
  constructor({ width, height }: PixelSize, channels: 3 | 4 = 3) {
    this.width = width;
    this.height = height;
    this.channels = channels;
  }

  /** Made when it is first used: a colour fix has its float planes until then, and what came before them can go. */
  get data(): Uint8ClampedArray {
    this.#data ??= new Uint8ClampedArray(this.channels * this.width * this.height);
    return this.#data;
  }

  put(y: number, x: number, { values, start, stride, length }: PixelRun): void {
    const { data, channels } = this;
    let to = channels * (y * this.width + x);
    // A clamped array rounds (ties to even) and clips on assignment.
    for (let red = start; red < start + length; red++) {
      data[to] = 255 * (values[red] as number);
      data[to + 1] = 255 * (values[red + stride] as number);
      data[to + 2] = 255 * (values[red + 2 * stride] as number);
      to += channels;
    }
  }

  /** @param row red, green and blue of neighbours, the first at (y, x) */
  putRgb(y: number, x: number, row: Uint8Array): void {
    const { data, channels } = this;
    let to = channels * (y * this.width + x);
    if (channels === 3) {
      data.set(row, to);
      return;
    }
    for (let from = 0; from < row.length; from += 3) {
      data[to] = row[from] as number;
      data[to + 1] = row[from + 1] as number;
      data[to + 2] = row[from + 2] as number;
      to += channels;
    }
  }

  /**
   * Blends the colours of a rectangle with `level`.
   * @param opacity [height, width] in [0,1]; 0 leaves only the level
   */
  fade(level: number, { y, x, width, height }: Region, opacity: Float32Array): void {
    const { data, channels } = this;
    for (let row = 0; row < height; row++) {
      let at = channels * ((y + row) * this.width + x);
      for (let i = row * width; i < (row + 1) * width; i++, at += channels) {
        const share = opacity[i] as number;
        for (let c = 0; c < 3; c++) {
          data[at + c] = level + share * ((data[at + c] as number) - level);
        }
      }
    }
  }

  /** Fills what lies right of and below a picture in its top left corner with the pixels of that picture's edges. */
  repeatEdges({ width, height }: PixelSize): void {
    const { data, channels } = this;
    const stride = channels * this.width;
    for (let y = 0; y < height && width < this.width; y++) {
      const end = y * stride + channels * width;
      for (let at = end; at < (y + 1) * stride; at++) data[at] = data[at - channels] as number;
    }
    for (let y = height; y < this.height; y++) {
      data.copyWithin(y * stride, (height - 1) * stride, height * stride);
    }
  }

  /** A rectangle of it, for pixels that are counted from its own corner. */
  part({ y, x, width, height }: Region): PixelSink {
    return { width, height, put: (row, column, run) => this.put(y + row, x + column, run) };
  }
}
