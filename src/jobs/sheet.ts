/** The layout of a contact sheet: one cell for each pair of dials, pix from left to right, sem from top to bottom. */
import { checkSize } from './output-size.ts';
import type { OutputFormat } from './params.ts';

export interface Sweep {
  pix: readonly number[];
  sem: readonly number[];
}

/** Glyphs are 5 × 7 dots and one dot apart. */
export const glyphDots = { width: 5, height: 7, pitch: 6 } as const;
/** The longest label: `pix 1.999`. */
const labelDots = 9 * glyphDots.pitch;
/** A dot of a label is one pixel for each so many of a cell's shorter side. */
const cellPerDot = 128;

export interface SheetLayout {
  width: number;
  height: number;
  /** Pixels per dot of a label. */
  dot: number;
  /** Top left corner of a cell. */
  cell(column: number, row: number): { x: number; y: number };
}

/** @param cell size of one image, in pixels */
export function planSheet(cell: { width: number; height: number }, sweep: Sweep): SheetLayout {
  const dot = Math.max(1, Math.round(Math.min(cell.width, cell.height) / cellPerDot));
  const gap = 4 * dot;
  const head = glyphDots.height * dot + 2 * gap;
  const side = labelDots * dot + 2 * gap;
  // A cell may be narrower than the label above it.
  const stride = { x: Math.max(cell.width, labelDots * dot) + gap, y: cell.height + gap };
  return {
    width: side + sweep.pix.length * stride.x,
    height: head + sweep.sem.length * stride.y,
    dot,
    cell: (column, row) => ({ x: side + column * stride.x, y: head + row * stride.y }),
  };
}

/** @throws too_many_pixels | unsupported_output */
export function checkSheet(layout: SheetLayout, format: OutputFormat, maxPixels: number): void {
  const parameter = 'pix';
  checkSize(
    layout,
    { format, maxPixels },
    {
      what: 'The sheet',
      pixels: () => ({
        advice: 'Ask for fewer dials, or sweep an image of smaller scale',
        parameter,
      }),
      side: { advice: 'Choose format=png, or fewer dials', parameter },
    },
  );
}
