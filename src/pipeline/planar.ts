/** A float image or latents in memory: channel by channel, row by row. */

/** [channels, height, width] float32, row-major. */
export class Planar {
  readonly channels: number;
  readonly height: number;
  readonly width: number;
  data: Float32Array;

  constructor(channels: number, height: number, width: number) {
    this.channels = channels;
    this.height = height;
    this.width = width;
    this.data = new Float32Array(channels * height * width);
  }

  /** Lets the memory go, whoever still holds the object: an image-sized buffer must not outlive its use. */
  release(): void {
    this.data = new Float32Array(0);
  }
}

/** A rectangle, in the cells (pixels or latents) of the array it cuts. */
export interface Region {
  readonly y: number;
  readonly x: number;
  readonly height: number;
  readonly width: number;
}

/** Copies `region` of `source` into `tile`, which has the region's size and the source's channels. */
export function readRegion(source: Planar, region: Region, tile: Float32Array): void {
  let to = 0;
  for (let c = 0; c < source.channels; c++) {
    for (let row = 0; row < region.height; row++) {
      const from = (c * source.height + region.y + row) * source.width + region.x;
      tile.set(source.data.subarray(from, from + region.width), to);
      to += region.width;
    }
  }
}

/**
 * Copies the part `from` of a tile to `target` at (y, x).
 * @param tile [channels, tileHeight, tileWidth]
 * @param from in the tile's own cells
 */
export function writeRegion(
  target: Planar,
  at: { y: number; x: number },
  tile: Float32Array,
  tileSize: { height: number; width: number },
  from: Region,
): void {
  for (let c = 0; c < target.channels; c++) {
    for (let row = 0; row < from.height; row++) {
      const source = (c * tileSize.height + from.y + row) * tileSize.width + from.x;
      const to = (c * target.height + at.y + row) * target.width + at.x;
      target.data.set(tile.subarray(source, source + from.width), to);
    }
  }
}

/** [C,rows,W] → [rows,C,W] in `target`. */
export function planesToRows(
  planes: Float32Array,
  { channels, rows, width }: { channels: number; rows: number; width: number },
  target: Float32Array,
): void {
  for (let c = 0; c < channels; c++) {
    for (let row = 0; row < rows; row++) {
      const from = (c * rows + row) * width;
      target.set(planes.subarray(from, from + width), (row * channels + c) * width);
    }
  }
}
