/**
 * What a bundle needs of a device's memory, and which of its tile sizes fit: arithmetic from the manifest, done
 * before anything is loaded. What a CPU device really takes is measured when it has loaded a bundle.
 */
import type { GraphName, Manifest } from './manifest.ts';

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
 * Bytes of weights and of the activations of one tile of each graph. A sum, not a maximum: each session keeps the
 * memory of its largest run. A graph without `activationBytesPerCell` counts with its weights alone.
 */
export function expectedBytes({ graphs }: Pick<Manifest, 'graphs'>, onCpu: boolean): number {
  return Object.entries(graphs).reduce((total, [name, graph]) => {
    const { activationBytesPerCell = 0, tileLatents } = graph;
    const activations = activationBytesPerCell * tileLatents ** 2 * largestBatch(name, onCpu);
    return total + (weightBytes(graph, onCpu) + activations) * widening(graph, onCpu);
  }, 0);
}

/**
 * The manifest with the tile sizes that it names for a device of this much memory: those of the largest size that the
 * device has, or the smallest that there are. Without any, or where the memory is not known, as it is.
 * @param memoryBytes of the device; undefined: not known, or a CPU
 */
export function fitTiles(manifest: Manifest, memoryBytes: number | undefined): Manifest {
  const sizes = manifest.tilesByMemory;
  if (!sizes || memoryBytes === undefined) return manifest;
  const fitting = sizes.filter(({ gigabytes }) => gigabytes * 1e9 <= memoryBytes).at(-1);
  const chosen = fitting ?? sizes[0];
  if (!chosen) return manifest;
  const { encoder, unet, decoder } = manifest.graphs;
  return {
    ...manifest,
    graphs: {
      encoder: { ...encoder, tileLatents: chosen.encoder },
      unet: { ...unet, tileLatents: chosen.unet },
      decoder: { ...decoder, tileLatents: chosen.decoder },
    },
  };
}
