/**
 * Sections: where the restored picture is too large to be held, it is made in overlapping rectangles, one after the other,
 * and each is reduced to its place in the output before the next one begins.
 */
import type { PixelSize } from '../jobs/output-size.ts';
import type { Model } from './model.ts';
import type { Region } from './planar.ts';
import type { Cut } from './reduce.ts';
import { roundUp } from './tiles.ts';

export interface Section extends Cut {
  /** What the graphs see: a rectangle of the restored picture. */
  readonly window: Region;
  /** The window in latent cells, padded as `Geometry.latents` is where the picture ends. */
  readonly latents: PixelSize;
}

export interface Sections {
  /** As `Geometry` says. */
  readonly extent: PixelSize;
  readonly restored: PixelSize;
  readonly sections: readonly Section[];
}

/** On one axis; the end is exclusive. */
interface Span {
  readonly start: number;
  readonly end: number;
}

/** One axis of a section, in restored pixels (`window`, `visible`) and in those of the output (`reduced`, `place`). */
type AxisSection = Readonly<Record<'window' | 'visible' | 'reduced' | 'place', Span>>;

/**
 * Cuts are multiples of so many pixels of the output, and the picture is restored at a multiple of 1/12 of its size: then a
 * restored pixel begins at every cut, and each section is reduced by the same factor, in the phase of the whole. 4/3, 2, 8/3
 * and 4, the reductions of the usual scales, are such multiples; others are up to 1/12 less than wanted.
 */
const phase = 12;
/** Pixels of the output beyond a cut that are reduced and thrown away: the cubic filter reaches two. */
const filterMargin = phase;
/** How far the colour fix `wavelet` reaches, in restored pixels. */
const colorFixReach = 31;
const mostSectionsOnAxis = 64;
/** With margins and padding the work may be this many times that of the picture. */
const workFactor = 2;

/** Reduced by less than this, a picture would be soft and sharp in turns. */
export const leastReduction = 1.1;

export type SizedModel = Pick<Model, 'manifest' | 'tilePolicy'>;

/**
 * What a window reads beyond what it shows, in latent cells. The UNet's receptive field may be the whole picture; its tiles
 * make do with their overlap, and so do sections.
 */
function marginOf({ manifest }: SizedModel): number {
  const { encoder, unet, decoder } = manifest.graphs;
  const radii = (encoder.receptiveRadiusLatents ?? 0) + (decoder.receptiveRadiusLatents ?? 0);
  return unet.overlapLatents + radii + Math.ceil(colorFixReach / manifest.latents.downscale);
}

/**
 * @param output length of the axis
 * @param twelfths restored pixels for twelve of the output
 */
function cutAxis(
  output: number,
  twelfths: number,
  count: number,
  model: SizedModel,
): AxisSection[] {
  const { downscale } = model.manifest.latents;
  const step = model.tilePolicy.step * downscale;
  const margin = marginOf(model) * downscale;
  const restored = Math.ceil((output * twelfths) / phase);
  const cut = (index: number) =>
    index === count ? output : phase * Math.round((index * output) / (count * phase));
  const inRestored = (pixel: number) => (pixel / phase) * twelfths;
  return Array.from({ length: count }, (_, index) => {
    const place = { start: cut(index), end: cut(index + 1) };
    const start = Math.max(0, place.start - filterMargin);
    // Beyond the picture where it ends in the middle of a phase.
    const end = Math.min(roundUp(output, phase), roundUp(place.end, phase) + filterMargin);
    const visible = { start: inRestored(start), end: inRestored(end) };
    const window = {
      start: step * Math.floor(Math.max(0, visible.start - margin) / step),
      end: Math.min(restored, roundUp(visible.end + margin, step)),
    };
    return { window, visible, reduced: { start, end }, place };
  });
}

const lengthOf = ({ start, end }: Span): number => end - start;
const regionOf = (rows: Span, columns: Span, from = { y: 0, x: 0 }): Region => ({
  y: rows.start - from.y,
  x: columns.start - from.x,
  height: lengthOf(rows),
  width: lengthOf(columns),
});

function sectionOf(rows: AxisSection, columns: AxisSection, model: SizedModel): Section {
  const { downscale } = model.manifest.latents;
  const window = regionOf(rows.window, columns.window);
  const cells = (pixels: number) => roundUp(Math.ceil(pixels / downscale), model.tilePolicy.step);
  return {
    window,
    latents: { width: cells(window.width), height: cells(window.height) },
    visible: regionOf(rows.visible, columns.visible, window),
    reduced: regionOf(rows.reduced, columns.reduced),
    place: regionOf(rows.place, columns.place),
  };
}

/**
 * The sections that are the least work among those whose windows have at most `maxPixels` and no side above `maxSide`.
 * @param scale restored size / output size, at the most
 * @returns undefined where every such cut would be mostly margins and padding, or reduced by less than `leastReduction`
 */
export function planSections(
  output: PixelSize,
  scale: number,
  model: SizedModel,
  { maxPixels, maxSide }: { maxPixels: number; maxSide: number },
): Sections | undefined {
  const twelfths = Math.floor(phase * scale);
  if (twelfths < leastReduction * phase) return undefined;
  const extent = {
    width: (output.width * twelfths) / phase,
    height: (output.height * twelfths) / phase,
  };
  const restored = { width: Math.ceil(extent.width), height: Math.ceil(extent.height) };
  const step = model.tilePolicy.step * model.manifest.latents.downscale;
  const axes = (length: number) =>
    Array.from({ length: mostSectionsOnAxis }, (_, i) => {
      const parts = cutAxis(length, twelfths, i + 1, model);
      const lengths = parts.map(({ window }) => roundUp(lengthOf(window), step));
      return { parts, longest: Math.max(...lengths), total: lengths.reduce((a, b) => a + b) };
    }).filter(
      ({ parts, longest }) => longest <= maxSide && parts.every(({ place }) => lengthOf(place) > 0),
    );
  let best: Sections | undefined;
  let least = workFactor * restored.width * restored.height;
  const columnAxes = axes(output.width);
  for (const rows of axes(output.height)) {
    const columns = columnAxes.find(({ longest }) => rows.longest * longest <= maxPixels);
    if (!columns || rows.total * columns.total >= least) continue;
    least = rows.total * columns.total;
    best = {
      extent,
      restored,
      sections: rows.parts.flatMap((y) => columns.parts.map((x) => sectionOf(y, x, model))),
    };
  }
  return best;
}
