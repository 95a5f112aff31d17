/** Labels on a sheet, in dots of our own: no font of the system is needed, and they look the same everywhere. */
import { glyphDots } from '../jobs/sheet.ts';
import type { Samples } from './samples.ts';

const rows = (...lines: string[]): readonly string[] => lines;

/** Seven rows of five dots; what is no space is ink. */
const glyphs: Readonly<Record<string, readonly string[]>> = {
  '0': rows(' ### ', '#   #', '#   #', '#   #', '#   #', '#   #', ' ### '),
  '1': rows('  #  ', ' ##  ', '  #  ', '  #  ', '  #  ', '  #  ', ' ### '),
  '2': rows(' ### ', '#   #', '    #', '  ## ', ' #   ', '#    ', '#####'),
  '3': rows('#### ', '    #', '    #', ' ### ', '    #', '    #', '#### '),
  '4': rows('#   #', '#   #', '#   #', '#####', '    #', '    #', '    #'),
  '5': rows('#####', '#    ', '#    ', '#### ', '    #', '    #', '#### '),
  '6': rows(' ### ', '#    ', '#    ', '#### ', '#   #', '#   #', ' ### '),
  '7': rows('#####', '    #', '   # ', '   # ', '  #  ', '  #  ', '  #  '),
  '8': rows(' ### ', '#   #', '#   #', ' ### ', '#   #', '#   #', ' ### '),
  '9': rows(' ### ', '#   #', '#   #', ' ####', '    #', '    #', ' ### '),
  '.': rows('     ', '     ', '     ', '     ', '     ', ' ##  ', ' ##  '),
  p: rows('     ', '     ', '#### ', '#   #', '#### ', '#    ', '#    '),
  i: rows('  #  ', '     ', ' ##  ', '  #  ', '  #  ', '  #  ', ' ### '),
  x: rows('     ', '     ', '#   #', ' # # ', '  #  ', ' # # ', '#   #'),
  s: rows('     ', '     ', ' ####', '#    ', ' ### ', '    #', '#### '),
  e: rows('     ', '     ', ' ### ', '#   #', '#####', '#    ', ' ### '),
  m: rows('     ', '     ', '## # ', '# # #', '# # #', '# # #', '# # #'),
};

/**
 * Draws in black.
 * @param sheet RGB
 * @param text of the characters above; others are blank
 * @param at top left corner
 * @param dot pixels per dot
 */
export function drawLabel(
  sheet: Samples,
  text: string,
  at: { x: number; y: number },
  dot: number,
): void {
  for (const [i, character] of [...text].entries()) {
    for (const [row, line] of (glyphs[character] ?? []).entries()) {
      for (const [column, ink] of [...line].entries()) {
        if (ink === ' ') continue;
        drawDot(sheet, at.x + (i * glyphDots.pitch + column) * dot, at.y + row * dot, dot);
      }
    }
  }
}

function drawDot({ data, width, height }: Samples, left: number, top: number, dot: number): void {
  for (let y = top; y < Math.min(top + dot, height); y++) {
    const from = 3 * (y * width + left);
    data.fill(0, from, from + 3 * Math.min(dot, width - left));
  }
}
