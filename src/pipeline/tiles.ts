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
  /** True: every tile has the manifest's full size. False: it may be smaller where that saves work. */
  readonly fixed: boolean;
  /** The padded image is at least this long on each axis. */
  readonly smallestImage: number;
}

/**
 * The smallest tile that covers the axis with as many tiles as the largest tile needs: the last tile
 * would otherwise overlap its neighbour far more than asked for, which is work for nothing.
 */
function balancedTile(length: number, largest: number, overlap: number, step: number): number {
  const strideOf = (tile: number) => Math.floor((tile - overlap) / step) * step;
  const count = Math.ceil((length - largest) / strideOf(largest)) + 1;
  let tile = largest;
  for (let next = tile - step; strideOf(next) > 0; next -= step) {
    if (Math.ceil((length - next) / strideOf(next)) + 1 > count) break;
    tile = next;
  }
  return tile;
}

/**
 * @param length of the axis, a multiple of `policy.step`
 * @param largest edge of a tile, a multiple of `policy.step`
 * @param overlap least number of cells that neighbours share; `largest - overlap` ≥ `policy.step`
 */
export function planAxis(
  length: number,
  largest: number,
  overlap: number,
  policy: TilePolicy,
): AxisPlan {
  if (length <= largest) {
    return { tile: length, spans: [{ start: 0, ownStart: 0, ownEnd: length }] };
  }
  const { step, fixed } = policy;
  const tile = fixed ? largest : balancedTile(length, largest, overlap, step);
  const stride = Math.floor((tile - overlap) / step) * step;
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

/** All tiles of an image of height × width latent cells. */
export function planTiles(
  size: { height: number; width: number },
  spec: { tileLatents: number; overlapLatents: number },
  policy: TilePolicy,
): TilePlan {
  const rows = planAxis(size.height, spec.tileLatents, spec.overlapLatents, policy);
  const columns = planAxis(size.width, spec.tileLatents, spec.overlapLatents, policy);
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
