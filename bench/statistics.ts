/** Order statistics of small samples, and straight lines through series in time. */
export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.ceil(q * sorted.length) - 1)] ?? Number.NaN;
}

export const median = (values: readonly number[]): number => quantile(values, 0.5);

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

export interface Point {
  x: number;
  y: number;
}

export interface Trend {
  /** Of y per x, by least squares. */
  slope: number;
  /** Half the width of its 95 % confidence interval. */
  halfWidth: number;
}

/** With fewer independent points nothing can be said. */
const fewestPoints = 4;

/**
 * A straight line through a series in time. Neighbours in such a series resemble each other, so there are fewer
 * independent points than points: their number is reduced by the residuals' correlation with their neighbours
 * (Santer et al. 2000, doi:10.1029/1999JD901105), which widens the interval.
 */
export function trend(points: readonly Point[]): Trend {
  const x = mean(points.map((point) => point.x));
  const y = mean(points.map((point) => point.y));
  const spreadX = points.reduce((sum, point) => sum + (point.x - x) ** 2, 0);
  const slope = points.reduce((sum, point) => sum + (point.x - x) * (point.y - y), 0) / spreadX;
  const residuals = points.map((point) => point.y - y - slope * (point.x - x));
  const squares = residuals.reduce((sum, residual) => sum + residual ** 2, 0);
  const neighbours = residuals
    .slice(1)
    .reduce((sum, residual, index) => sum + residual * (residuals[index] ?? 0), 0);
  const correlation = squares === 0 ? 0 : Math.max(0, neighbours / squares);
  const independent = (points.length * (1 - correlation)) / (1 + correlation);
  if (!(independent > fewestPoints)) return { slope, halfWidth: Number.POSITIVE_INFINITY };
  const error = Math.sqrt(squares / (independent - 2) / spreadX);
  return { slope, halfWidth: student975(independent - 2) * error };
}

/** With fewer points the parts below overlap by chance only, or do not for the same reason. */
const fewestForRise = 24;

/**
 * By how much all of the last sixth of a series lies above all of its first third; negative where they overlap. For
 * growth that is no straight line, of which `trend` says little: its residuals resemble their neighbours. The tooth of
 * a saw is in both parts, so that garbage that is collected now and then is no rise.
 * @returns NaN for a series that is too short to tell
 */
export function riseOf(points: readonly Point[]): number {
  if (points.length < fewestForRise) return Number.NaN;
  const values = points.map((point) => point.y);
  const before = values.slice(0, Math.round(values.length / 3));
  const after = values.slice(-Math.round(values.length / 6));
  return Math.min(...after) - Math.max(...before);
}

/** The 97.5 % quantile of Student's distribution (Abramowitz and Stegun 26.7.5). 3 % too small at 2, exact from 5 on. */
function student975(freedom: number): number {
  const z = 1.959964;
  return (
    z +
    (z ** 3 + z) / (4 * freedom) +
    (5 * z ** 5 + 16 * z ** 3 + 3 * z) / (96 * freedom ** 2) +
    (3 * z ** 7 + 19 * z ** 5 + 17 * z ** 3 - 15 * z) / (384 * freedom ** 3)
  );
}
