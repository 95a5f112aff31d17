/** Memory over time, and whether it grows. */
import { table } from './results.ts';
import { median, type Point, riseOf, type Trend, trend } from './statistics.ts';

export interface MemoryRow {
  name: string;
  /** Megabytes: medians of the first blocks, of the first blocks after warming up, and of the last ones. */
  first: number;
  warm: number;
  last: number;
  highest: number;
  /** Megabytes per unit of x, after warming up. */
  growth: Trend;
  /** Megabytes by which the last part lies above the first one after warming up (`riseOf`). */
  rise: number;
}

/** One look at everything: megabytes by name. */
export type Look = () => Record<string, number> | Promise<Record<string, number>>;

/** y in megabytes; x in hours, or in what the growth is to be counted by. */
export type Series = readonly Point[];

/** Node collects garbage every few seconds: a point of the line is the median of so many looks. */
const looksPerBlock = 6;
/** This share of the run is warming up: heaps and caches find their size. */
const warmUpShare = 1 / 3;
/** Blocks of which the table shows a median. */
const shownBlocks = 3;
/** Pages that a heap takes once and does not give back: less than that is no leak that anyone could tell. */
const fewMegabytes = 3;
const msPerHour = 3_600_000;

export class MemoryLog {
  readonly #look: Look;
  readonly #series = new Map<string, Point[]>();
  readonly #startedAt = performance.now();
  readonly #timer: NodeJS.Timeout;

  constructor(look: Look, everyMs: number) {
    this.#look = look;
    this.#timer = setInterval(() => void this.#note(), everyMs).unref();
  }

  /** @returns what was seen, by name */
  stop(): Map<string, Series> {
    clearInterval(this.#timer);
    return this.#series;
  }

  async #note(): Promise<void> {
    const x = (performance.now() - this.#startedAt) / msPerHour;
    for (const [name, y] of Object.entries(await this.#look())) {
      // A process that has just ended.
      if (Number.isNaN(y)) continue;
      this.#series.set(name, [...(this.#series.get(name) ?? []), { x, y }]);
    }
  }
}

/** @param warmUp share of the series that the line leaves out */
export function describe(name: string, series: Series, warmUp = warmUpShare): MemoryRow {
  const blocks = inBlocks(series);
  const line = blocks.slice(Math.round(blocks.length * warmUp));
  const of = (points: Series) => median(points.map(({ y }) => y));
  return {
    name,
    first: of(blocks.slice(0, shownBlocks)),
    warm: of(line.slice(0, shownBlocks)),
    last: of(line.slice(-shownBlocks)),
    highest: Math.max(...series.map(({ y }) => y)),
    growth: trend(line),
    rise: riseOf(line),
  };
}

function inBlocks(series: Series): Point[] {
  const count = Math.max(1, Math.floor(series.length / looksPerBlock));
  return Array.from({ length: count }, (_, block) => {
    const points = series.slice(block * looksPerBlock, (block + 1) * looksPerBlock);
    return { x: median(points.map(({ x }) => x)), y: median(points.map(({ y }) => y)) };
  });
}

/** The whole 95 % interval of its slope is above zero, or its last part is clearly above its first one. */
export const grows = ({ growth, rise }: MemoryRow): boolean =>
  growth.slope > growth.halfWidth || rise > fewMegabytes;

export const growsMeans = `"grows" means that all of the interval is above zero, or that all of the last sixth lies more than ${fewMegabytes} MB above all of the first third`;

/** For a table: the slope with its interval, and the verdict. */
export function verdict(row: MemoryRow): [string, string] {
  const { slope, halfWidth } = row.growth;
  const isKnown = Number.isFinite(halfWidth);
  const isTooShort = !isKnown && Number.isNaN(row.rise);
  return [
    isKnown ? `${slope.toFixed(1)} ± ${halfWidth.toFixed(1)}` : '',
    isTooShort ? 'too short to tell' : grows(row) ? 'yes' : 'no',
  ];
}

export const memoryTable = (rows: readonly MemoryRow[]): string =>
  table(
    [
      'memory',
      'at first, MB',
      'warmed up, MB',
      'at the end, MB',
      'highest, MB',
      'slope after warming up, MB an hour',
      'grows',
    ],
    rows.map((row) => [
      row.name,
      ...[row.first, row.warm, row.last, row.highest].map((megabytes) => megabytes.toFixed(1)),
      ...verdict(row),
    ]),
  );
