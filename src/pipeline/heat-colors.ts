/** The colours of a heat map. */

/** From nothing to the most: five colours, evenly spaced, each brighter than the one before. RGB after RGB. */
const colors = Float64Array.of(0, 0, 0, 80, 20, 110, 185, 50, 85, 245, 140, 30, 255, 255, 190);
const lastSegment = colors.length / 3 - 2;

/**
 * Writes a colour per value. Once per pixel of the output, so it makes no objects.
 * @param most the value of the brightest colour; 0: all are black
 * @param samples interleaved RGB, written from the first of `values` on; a clamped array rounds on assignment
 */
export function putHeatColors(
  values: Float32Array,
  most: number,
  samples: Uint8ClampedArray,
): void {
  for (let i = 0; i < values.length; i++) {
    const share = most > 0 ? Math.min(1, Math.max(0, (values[i] as number) / most)) : 0;
    const position = share * (lastSegment + 1);
    const segment = Math.min(Math.floor(position), lastSegment);
    const fraction = position - segment;
    const at = 3 * segment;
    const to = 3 * i;
    const red = colors[at] as number;
    const green = colors[at + 1] as number;
    const blue = colors[at + 2] as number;
    samples[to] = red + ((colors[at + 3] as number) - red) * fraction;
    samples[to + 1] = green + ((colors[at + 4] as number) - green) * fraction;
    samples[to + 2] = blue + ((colors[at + 5] as number) - blue) * fraction;
  }
}
