/** A blur of an image row by row: only as many rows are held as it sees at once. */

/** An image [C,H,W] from top to bottom. */
export interface RowSource {
  /** @returns the next row [C,W], valid until the next call */
  next(): Float32Array;
}

export interface RowSize {
  readonly channels: number;
  readonly width: number;
  readonly height: number;
}

/** [1 2 1]⊗[1 2 1]/16 at a dilation, with repeated edges; as many rows as the source has, and of its size. */
export class BlurredRows implements RowSource {
  readonly #source: RowSource;
  readonly #size: RowSize;
  readonly #dilation: number;
  /** Blurred along themselves: row `y` of the source is at `y` modulo their number. */
  readonly #kept: Float32Array[];
  readonly #blurred: Float32Array;
  #rowsRead = 0;
  #y = 0;

  constructor(source: RowSource, size: RowSize, dilation: number) {
    this.#source = source;
    this.#size = size;
    this.#dilation = dilation;
    const length = size.channels * size.width;
    const rows = Math.min(size.height, 2 * dilation + 1);
    this.#kept = Array.from({ length: rows }, () => new Float32Array(length));
    this.#blurred = new Float32Array(length);
  }

  next(): Float32Array {
    const last = this.#size.height - 1;
    const [above, y, below] = [
      Math.max(0, this.#y - this.#dilation),
      this.#y,
      Math.min(last, this.#y + this.#dilation),
    ];
    while (this.#rowsRead <= below) {
      const { channels, width } = this.#size;
      blurRow(this.#source.next(), this.#row(this.#rowsRead), channels, width, this.#dilation);
      this.#rowsRead += 1;
    }
    this.#y += 1;
    blurAcross(this.#row(above), this.#row(y), this.#row(below), this.#blurred);
    return this.#blurred;
  }

  #row(y: number): Float32Array {
    return this.#kept[y % this.#kept.length] as Float32Array;
  }
}

/** [1 2 1]/4 at dilation `d` along a row [C,W], edges repeated. */
function blurRow(
  from: Float32Array,
  to: Float32Array,
  channels: number,
  width: number,
  d: number,
): void {
  const innerStart = Math.min(d, width);
  const innerEnd = Math.max(innerStart, width - d);
  for (let at = 0; at < channels * width; at += width) {
    for (let x = at + innerStart; x < at + innerEnd; x++) {
      const sides = (from[x - d] as number) + (from[x + d] as number);
      to[x] = 0.25 * sides + 0.5 * (from[x] as number);
    }
    // The ends of a row, where a neighbour may lie outside.
    for (let x = 0; x < width; x = x + 1 === innerStart ? innerEnd : x + 1) {
      const left = from[at + Math.max(0, x - d)] as number;
      const right = from[at + Math.min(width - 1, x + d)] as number;
      to[at + x] = 0.25 * (left + right) + 0.5 * (from[at + x] as number);
    }
  }
}

/** [1 2 1]/4 of three rows, element by element. */
function blurAcross(
  above: Float32Array,
  middle: Float32Array,
  below: Float32Array,
  to: Float32Array,
): void {
  for (let i = 0; i < to.length; i++) {
    const sides = (above[i] as number) + (below[i] as number);
    to[i] = 0.25 * sides + 0.5 * (middle[i] as number);
  }
}
