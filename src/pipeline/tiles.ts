/**
 * Where the tiles of a graph lie. Tiles of one run have one shape; neighbours overlap; the last of an
 * axis is snapped to the edge. At a true edge of the image a tile ends there, as the untiled run does, so
 * that the graph's own padding acts in the same place.
 */
import type { Region } from './planar.ts';

/** One axis of a tile: where it reads, and which part of its result is its own. All in latent cells. */
interface Span {
  /** First cell that the tile reads. */
  readonly start: number;
  /** The tile owns the cells [ownStart, ownEnd): the cuts lie in the middle of each overlap. */
  readonly ownStart: number;
  readonly ownEnd: number;
}

export interface AxisPlan {
  readonly tile: number;
  readonly spans: readonly Span[];
}

/** What tiles may look like on a device, in latent cells. */
export interface TilePolicy {
  /** Tile positions and edges are multiples of it, so that a graph that downsamples stays in phase. */
  readonly step: number;
  /**
   * Of an image that is more than one tile. True: its tiles are squares of the manifest's size, one shape for all such
   * images but the narrowest. False: they have the shape of the same area or less that computes the fewest cells.
   */
  readonly fixed: boolean;
}

/** Height and width, in latent cells. */
interface Shape {
  readonly height: number;
  readonly width: number;
}

/** Of one graph, as the manifest has it. */
interface TileSpec {
  /** Edge of a square tile; its area is what a tile may have. */
  readonly tileLatents: number;
  /** Least number of cells that neighbours share. */
  readonly overlapLatents: number;
}

/** The next multiple of `step`. */
export const roundUp = (value: number, step: number): number => Math.ceil(value / step) * step;

/** How far one tile lies behind the one before: a multiple of `step`, as `tile` is. */
const strideOf = (tile: number, overlap: number, step: number): number =>
  tile - roundUp(overlap, step);

const countOf = (length: number, tile: number, overlap: number, step: number): number =>
  tile >= length ? 1 : Math.ceil((length - tile) / strideOf(tile, overlap, step)) + 1;

/**
 * The whole axis, then the smallest tile of which two cover it, three, and so on. Others need as many tiles and
 * overlap more than asked for, which is work for nothing.
 */
function usefulTiles(length: number, overlap: number, step: number): number[] {
  const shared = roundUp(overlap, step);
  const tiles = [length];
  for (let count = 2; (length - shared) / count > 0; count++) {
    // count × stride + shared ≥ length
    const tile = roundUp((length - shared) / count, step) + shared;
    if (tile < (tiles.at(-1) as number)) tiles.push(tile);
    if (tile === shared + step) break;
  }
  return tiles;
}

/** Among the shapes that a tile of this area can have, the one with the fewest cells in all tiles together. */
function cheapestShape(
  size: Shape,
  { tileLatents, overlapLatents }: TileSpec,
  step: number,
): Shape {
  let [best, least] = [{ height: tileLatents, width: tileLatents }, Number.POSITIVE_INFINITY];
  const widths = usefulTiles(size.width, overlapLatents, step);
  for (const height of usefulTiles(size.height, overlapLatents, step)) {
    const column = height * countOf(size.height, height, overlapLatents, step);
    for (const width of widths) {
      if (height * width > tileLatents ** 2) continue;
      const cells = column * width * countOf(size.width, width, overlapLatents, step);
      // Of equals the one that comes first, which has the fewest tiles.
      if (cells < least) [best, least] = [{ height, width }, cells];
    }
  }
  return best;
}

function tileShape(size: Shape, spec: TileSpec, { step, fixed }: TilePolicy): Shape {
  if (size.height * size.width <= spec.tileLatents ** 2) return size;
  if (!fixed) return cheapestShape(size, spec, step);
  const edge = (length: number) => Math.min(length, spec.tileLatents);
  return { height: edge(size.height), width: edge(size.width) };
}

/**
 * @param length of the axis, a multiple of `step`
 * @param tile edge of a tile, a multiple of `step`
 * @param overlap least number of cells that neighbours share; `tile - overlap` ≥ `step`, or `tile` ≥ `length`
 */
export function planAxis(length: number, tile: number, overlap: number, step: number): AxisPlan {
  if (length <= tile) {
    return { tile: length, spans: [{ start: 0, ownStart: 0, ownEnd: length }] };
  }
  const stride = strideOf(tile, overlap, step);
  const starts: number[] = [];
  for (let start = 0; start < length - tile; start += stride) starts.push(start);
  starts.push(length - tile);
  const spans = starts.map((start, i) => {
    const previous = starts[i - 1];
    const next = starts[i + 1];
    return {
      start,
      ownStart: previous === undefined ? 0 : Math.floor((previous + tile + start) / 2),
      ownEnd: next === undefined ? length : Math.floor((start + tile + next) / 2),
    };
  });
  return { tile, spans };
}

export interface Tile {
  /** What the tile reads, in latent cells of the image. */
  readonly region: Region;
  /** The part of the image that its result is written to, when tiles are cut hard. */
  readonly own: Region;
  /** Index of the tile along each axis. */
  readonly row: number;
  readonly column: number;
}

export interface TilePlan {
  readonly tileHeight: number;
  readonly tileWidth: number;
  readonly rows: AxisPlan;
  readonly columns: AxisPlan;
  /** Row by row. */
  readonly tiles: readonly Tile[];
}

/**
 * All tiles of an image of height × width latent cells, each at most `tileLatents`² cells. What a run costs in
 * time and memory is its area (attention included, which is the square of it), so an image of that area is one tile
 * whatever its shape.
 */
export function planTiles(size: Shape, spec: TileSpec, policy: TilePolicy): TilePlan {
  const shape = tileShape(size, spec, policy);
  const rows = planAxis(size.height, shape.height, spec.overlapLatents, policy.step);
  const columns = planAxis(size.width, shape.width, spec.overlapLatents, policy.step);
  const tiles = rows.spans.flatMap((y, row) =>
    columns.spans.map((x, column) => ({
      region: { y: y.start, x: x.start, height: rows.tile, width: columns.tile },
      own: {
        y: y.ownStart,
        x: x.ownStart,
        height: y.ownEnd - y.ownStart,
        width: x.ownEnd - x.ownStart,
      },
      row,
      column,
    })),
  );
  return { tileHeight: rows.tile, tileWidth: columns.tile, rows, columns, tiles };
}
