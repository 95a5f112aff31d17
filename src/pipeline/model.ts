/**
 * A loaded bundle: three graph sessions behind three methods that take and give float32 tiles.
 * Nothing else in the pipeline knows that graphs, providers or sessions exist.
 */
import path from 'node:path';
import { fitTiles } from './bundle-memory.ts';
import {
  bundleSha256,
  type GraphName,
  latentStep,
  loadManifest,
  type Manifest,
} from './manifest.ts';
import { GraphSession, type SessionOptions, type Signature, type Values } from './session.ts';
import { StageSessions } from './strips/stage-sessions.ts';
import type { TilePolicy } from './tiles.ts';

/** Height and width of a tile, in latent cells. */
interface LatentSize {
  readonly height: number;
  readonly width: number;
}

export interface LoadOptions extends SessionOptions {
  /** Of the device, where it is known: chooses among the manifest's tile sizes. */
  memoryBytes?: number | undefined;
}

export interface Model {
  /** With the tile sizes that were chosen for this device. */
  readonly manifest: Manifest;
  /** Identifies the bundle, whatever the device. */
  readonly sha256: string;
  /**
   * On a CPU a small image costs what it is worth. Elsewhere each new shape costs tuning, so each graph sees
   * one shape only, that of `warmUp`, and small images are padded to it.
   */
  readonly tilePolicy: TilePolicy;
  /** pixels [1,3,H,W] RGB in [−1,1] → latents [1,C,h,w], scaled. */
  encode(pixels: Float32Array, size: LatentSize, latents: Float32Array): Promise<void>;
  /**
   * latents [1,C,h,w] → residuals [semantic.length,C,h,w], one evaluation per entry, in one run.
   * @param semantic 0 → ε_pix, 1 → ε_PiSA
   */
  predict(
    latents: Float32Array,
    semantic: readonly number[],
    size: LatentSize,
    residuals: Float32Array,
  ): Promise<void>;
  /** latents [1,C,h,w], scaled → pixels [1,3,H,W] RGB, about [−1,1]. */
  decode(latents: Float32Array, size: LatentSize, pixels: Float32Array): Promise<void>;
  /** The stages of a graph that cannot be tiled, for images larger than a tile; undefined where it has none. */
  stagesOf(graph: 'encoder' | 'decoder'): StageSessions | undefined;
  /** Runs every graph in its full tile shape, so that the first job finds memory and tuning done. */
  warmUp(): Promise<void>;
  dispose(): Promise<void>;
}

function signatures(manifest: Manifest): Record<GraphName, [Signature, Signature]> {
  const latents = [null, manifest.latents.channels, null, null];
  const pixels = [null, 3, null, null];
  return {
    encoder: [{ pixels }, { latents }],
    unet: [{ latents, semantic: [null] }, { residual: latents }],
    decoder: [{ latents }, { pixels }],
  };
}

type Sessions = Record<GraphName, GraphSession>;

async function openSessions(
  bundleDir: string,
  manifest: Manifest,
  options: SessionOptions,
): Promise<Sessions> {
  const opened: Partial<Sessions> = {};
  try {
    for (const [name, [inputs, outputs]] of Object.entries(signatures(manifest))) {
      const graph = manifest.graphs[name as GraphName];
      const file = path.join(path.resolve(bundleDir), graph.file);
      const contract = { file, dtype: graph.dtype, inputs, outputs };
      opened[name as GraphName] = await GraphSession.open(contract, options);
    }
  } catch (error) {
    for (const session of Object.values(opened)) await session.release();
    throw error;
  }
  return opened as Sessions;
}

function tilePolicy(manifest: Manifest, { executionProvider }: SessionOptions): TilePolicy {
  const step = latentStep(manifest);
  if (executionProvider === 'cpu') return { step, fixed: false, smallestImage: step };
  const tiles = Object.values(manifest.graphs).map((graph) => graph.tileLatents);
  return { step, fixed: true, smallestImage: Math.max(...tiles) };
}

class LoadedModel implements Model {
  readonly manifest: Manifest;
  readonly sha256: string;
  readonly tilePolicy: TilePolicy;
  readonly #sessions: Sessions;
  readonly #bundleDir: string;
  readonly #options: SessionOptions;
  readonly #stages = new Map<GraphName, StageSessions>();

  constructor(bundleDir: string, manifest: Manifest, sessions: Sessions, options: LoadOptions) {
    this.manifest = fitTiles(manifest, options.memoryBytes);
    this.sha256 = bundleSha256(manifest);
    this.#sessions = sessions;
    this.#bundleDir = bundleDir;
    this.#options = options;
    this.tilePolicy = tilePolicy(this.manifest, options);
  }

  async encode(pixels: Float32Array, size: LatentSize, latents: Float32Array): Promise<void> {
    await this.#sessions.encoder.run(
      { pixels: this.#pixels(pixels, size) },
      { latents: this.#latents(latents, size) },
    );
  }

  async predict(
    latents: Float32Array,
    semantic: readonly number[],
    size: LatentSize,
    residuals: Float32Array,
  ): Promise<void> {
    const n = semantic.length;
    const batch = n === 1 ? latents : new Float32Array(n * latents.length);
    if (n > 1) for (let i = 0; i < n; i++) batch.set(latents, i * latents.length);
    await this.#sessions.unet.run(
      {
        latents: this.#latents(batch, size, n),
        semantic: { data: Float32Array.from(semantic), dims: [n] },
      },
      { residual: this.#latents(residuals, size, n) },
    );
  }

  async decode(latents: Float32Array, size: LatentSize, pixels: Float32Array): Promise<void> {
    await this.#sessions.decoder.run(
      { latents: this.#latents(latents, size) },
      { pixels: this.#pixels(pixels, size) },
    );
  }

  stagesOf(name: 'encoder' | 'decoder'): StageSessions | undefined {
    const { strips, dtype } = this.manifest.graphs[name];
    if (!strips) return undefined;
    const file = path.join(path.resolve(this.#bundleDir), strips.file);
    const stages = this.#stages.get(name) ?? new StageSessions(file, strips, dtype, this.#options);
    this.#stages.set(name, stages);
    return stages;
  }

  async warmUp(): Promise<void> {
    const { latents, graphs } = this.manifest;
    const cells = (tile: number) => new Float32Array(latents.channels * tile * tile);
    const pixels = (tile: number) => new Float32Array(3 * (tile * latents.downscale) ** 2);
    const size = (tile: number) => ({ height: tile, width: tile });
    const { tileLatents: e } = graphs.encoder;
    const { tileLatents: u } = graphs.unet;
    const { tileLatents: d } = graphs.decoder;
    await this.encode(pixels(e), size(e), cells(e));
    await this.predict(cells(u), [1], size(u), cells(u));
    // A batch of two is another shape to tune for; a CPU does not tune.
    if (this.tilePolicy.fixed) {
      await this.predict(cells(u), [0, 1], size(u), new Float32Array(2 * cells(u).length));
    }
    await this.decode(cells(d), size(d), pixels(d));
  }

  async dispose(): Promise<void> {
    for (const session of Object.values(this.#sessions)) await session.release();
    for (const stages of this.#stages.values()) await stages.release();
  }

  #latents(data: Float32Array, { height, width }: LatentSize, n = 1): Values {
    return { data, dims: [n, this.manifest.latents.channels, height, width] };
  }

  #pixels(data: Float32Array, { height, width }: LatentSize): Values {
    const { downscale } = this.manifest.latents;
    return { data, dims: [1, 3, height * downscale, width * downscale] };
  }
}

/**
 * Opens a bundle on a device. Keep it while there is room: sessions leak a little on release.
 * @throws invalid_bundle | device_unavailable
 */
export async function loadModel(bundleDir: string, options: LoadOptions): Promise<Model> {
  const manifest = await loadManifest(bundleDir);
  const sessions = await openSessions(bundleDir, manifest, options);
  return new LoadedModel(bundleDir, manifest, sessions, options);
}
