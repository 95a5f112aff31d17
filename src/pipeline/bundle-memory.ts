/**
 * What a bundle needs of a device's memory, and which of its tile sizes fit: arithmetic from the manifest, done
 * before anything is loaded. What a CPU device really takes is measured when it has loaded a bundle.
 */
import type { GraphName, Manifest } from './manifest.ts';

/** What models may take of a device, as in the budget of src/worker/device-memory.ts. */
const shareOfDevice = 0.8;

type Graph = Manifest['graphs'][GraphName];

/** `cpu` computes float16 graphs in float32: weights and activations take twice the bytes. */
const widening = (graph: Graph, onCpu: boolean): number =>
  onCpu && graph.dtype === 'float16' ? 2 : 1;

const sum = (files: readonly { bytes: number }[]): number =>
  files.reduce((bytes, file) => bytes + file.bytes, 0);

/**
 * What is loaded of a graph: once whole and, where it has them, once more in stages. Of merged graphs a CPU loads both
 * instead, each with all weights that they share.
 */
function weightBytes(graph: Graph, onCpu: boolean): number {
  const merged = onCpu && 'merged' in graph ? Object.values(graph.merged ?? {}) : [];
  const loaded = merged.length > 0 ? merged : [graph];
  return sum(loaded) + loaded.length * sum(graph.externalData ?? []) + (graph.strips?.bytes ?? 0);
}

/** ε_pix and ε_PiSA are one run with the pair in the batch; on a CPU two, one after the other (`Model.predict`). */
const largestBatch = (name: string, onCpu: boolean): number => (name === 'unet' && !onCpu ? 2 : 1);

/**
 * What an arena holds of what is live: on a GPU it grows by regions that double (ONNX Runtime's default, which Node cannot
 * change), and each session has its own. The converter plans with the same. Not measured.
 */
const arenaShare = (onCpu: boolean): number => (onCpu ? 1 : 2);

function activationBytes(name: string, graph: Graph, onCpu: boolean): number {
  const { activationBytesPerCell = 0, tileLatents } = graph;
  const live = activationBytesPerCell * tileLatents ** 2 * largestBatch(name, onCpu);
  return live * arenaShare(onCpu);
}

/**
 * Bytes of weights and of the activations of one tile of each graph. A sum, not a maximum: each session keeps the
 * memory of its largest run. On a GPU a strip, with as many cells as a tile, is one more run beside them: its session is
 * opened for it. A graph without `activationBytesPerCell` counts with its weights alone.
 */
export function expectedBytes({ graphs }: Pick<Manifest, 'graphs'>, onCpu: boolean): number {
  const parts = Object.entries(graphs).map(([name, graph]) => ({
    weights: weightBytes(graph, onCpu) * widening(graph, onCpu),
    tile: activationBytes(name, graph, onCpu) * widening(graph, onCpu),
    strip: graph.strips && !onCpu ? activationBytes(name, graph, onCpu) : 0,
  }));
  const kept = parts.reduce((total, { weights, tile }) => total + weights + tile, 0);
  return kept + Math.max(...parts.map(({ strip }) => strip));
}

/**
 * The manifest with the tile sizes that it names for a device of this much memory: those of the largest size that the
 * device has and that it can hold, or the smallest that there are. Without any, or where the memory is not known, as it is.
 * @param memoryBytes of the device; undefined: not known, or a CPU
 */
export function fitTiles(manifest: Manifest, memoryBytes: number | undefined): Manifest {
  const sizes = manifest.tilesByMemory;
  if (!sizes || memoryBytes === undefined) return manifest;
  const named = sizes.filter(({ gigabytes }) => gigabytes * 1e9 <= memoryBytes);
  const fitting = (named.length > 0 ? named : sizes.slice(0, 1)).map((row) =>
    withTiles(manifest, row),
  );
  // Rows of bundles that were converted before arenas were counted are too large for their device.
  const held = fitting.filter(
    (sized) => expectedBytes(sized, false) <= shareOfDevice * memoryBytes,
  );
  return held.at(-1) ?? fitting[0] ?? manifest;
}

function withTiles(
  manifest: Manifest,
  row: NonNullable<Manifest['tilesByMemory']>[number],
): Manifest {
  const { encoder, unet, decoder } = manifest.graphs;
  return {
    ...manifest,
    graphs: {
      encoder: { ...encoder, tileLatents: row.encoder },
      unet: { ...unet, tileLatents: row.unet },
      decoder: { ...decoder, tileLatents: row.decoder },
    },
  };
}
