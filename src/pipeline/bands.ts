/** Horizontal bands of an image: slices of work short enough for the event loop, small enough for memory. */

/** About this many pixels per band. */
const bandPixels = 131_072;

export interface Band {
  readonly y: number;
  readonly height: number;
}

export function* bandsOf(size: { width: number; height: number }): Generator<Band> {
  const rows = Math.max(1, Math.floor(bandPixels / size.width));
  for (let y = 0; y < size.height; y += rows) {
    yield { y, height: Math.min(rows, size.height - y) };
  }
}
