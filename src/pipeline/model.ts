/**
 * A loaded bundle: its graphs behind three methods that take and give float32 tiles.
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
import { roundUp, type TilePolicy } from './tiles.ts';
import { openUNet, type UNet } from './unet.ts';

/** Edge in pixels: 128² at scale 4, for which PiSA-SR was trained and which its authors measure. */
const usualOutput = 512;

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
   * Elsewhere than on a CPU each new shape costs tuning, so images that are more than a tile are cut into one shape,
   * that of `warmUp`, unless they are narrower than it. Whatever the device, an image is padded to a multiple of the
   * step and no further: padding up to a tile would cost the work of a tile, and change what normalisation and attention
   * see.
   */
  readonly tilePolicy: TilePolicy;
  /** pixels [1,3,H,W] RGB in [−1,1] → latents [1,C,h,w], scaled. */
  encodeLatents(pixels: Float32Array, size: LatentSize, latents: Float32Array): Promise<void>;
  /**
   * latents [1,C,h,w] → residuals [semantic.length,C,h,w], one evaluation per entry; on a GPU in one run.
   * @param semantic 0 → ε_pix, 1 → ε_PiSA
   */
  predict(
    latents: Float32Array,
    semantic: readonly number[],
    size: LatentSize,
    residuals: Float32Array,
  ): Promise<void>;
  /** latents [1,C,h,w], scaled → pixels [1,3,H,W] RGB, about [−1,1]. */
  decodeLatents(latents: Float32Array, size: LatentSize, pixels: Float32Array): Promise<void>;
  /** The stages of a graph that cannot be tiled, for images larger than a tile; undefined where it has none. */
  stagesOf(graph: 'encoder' | 'decoder'): StageSessions | undefined;
  /**
   * Runs every graph in its full tile shape, so that the first job finds memory and tuning done. Where shapes are
   * tuned for, in that of an output of 512² too; any other image of one tile is tuned for when it comes first.
   * Not the stages of strips, whose sessions live for one image wherever there is tuning.
   */
  warmUp(): Promise<void>;
  dispose(): Promise<void>;
}

/** What is loaded of a bundle. */
interface Graphs {
  readonly encoder: GraphSession;
  readonly unet: UNet;
  readonly decoder: GraphSession;
  release(): Promise<void>;
}

async function openGraphs(
  bundleDir: string,
  manifest: Manifest,
  options: SessionOptions,
): Promise<Graphs> {
  const opened: GraphSession[] = [];
  const release = async () => {
    for (const session of opened) await session.release();
  };
  const open = async (name: GraphName, file: string, inputs: Signature, outputs: Signature) => {
    const { dtype } = manifest.graphs[name];
    const contract = { file: path.join(path.resolve(bundleDir), file), dtype, inputs, outputs };
    const session = await GraphSession.open(contract, options);
    opened.push(session);
    return session;
  };
  const { encoder, decoder } = manifest.graphs;
  const latents = [null, manifest.latents.channels, null, null];
  const pixels = [null, 3, null, null];
  const isBatched = tilePolicyOf(manifest, options).fixed;
  try {
    return {
      encoder: await open('encoder', encoder.file, { pixels }, { latents }),
      unet: await openUNet(manifest, isBatched, (file, inputs) =>
        open('unet', file, inputs, { residual: latents }),
      ),
      decoder: await open('decoder', decoder.file, { latents }, { pixels }),
      release,
    };
  } catch (error) {
    await release();
    throw error;
  }
}

/** What is said of `Model.tilePolicy`. */
export function tilePolicyOf(
  manifest: Manifest,
  { executionProvider }: Pick<SessionOptions, 'executionProvider'>,
): TilePolicy {
  const step = latentStep(manifest);
  return { step, fixed: executionProvider !== 'cpu' };
}

class LoadedModel implements Model {
  readonly manifest: Manifest;
  readonly sha256: string;
  readonly tilePolicy: TilePolicy;
  readonly #graphs: Graphs;
  readonly #bundleDir: string;
  readonly #options: SessionOptions;
  readonly #stages = new Map<GraphName, StageSessions>();

  constructor(bundleDir: string, manifest: Manifest, graphs: Graphs, options: LoadOptions) {
    this.manifest = fitTiles(manifest, options.memoryBytes);
    this.sha256 = bundleSha256(manifest);
    this.#graphs = graphs;
    this.#bundleDir = bundleDir;
    this.#options = options;
    this.tilePolicy = tilePolicyOf(this.manifest, options);
  }

  async encodeLatents(
    pixels: Float32Array,
    size: LatentSize,
    latents: Float32Array,
  ): Promise<void> {
    await this.#graphs.encoder.run(
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
    await this.#graphs.unet.predict(this.#latents(latents, size), semantic, residuals);
  }

  async decodeLatents(
    latents: Float32Array,
    size: LatentSize,
    pixels: Float32Array,
  ): Promise<void> {
    await this.#graphs.decoder.run(
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
    const cells = (tile: number, n = 1) => new Float32Array(n * latents.channels * tile * tile);
    const pixels = (tile: number) => new Float32Array(3 * (tile * latents.downscale) ** 2);
    const size = (tile: number) => ({ height: tile, width: tile });
    for (const e of this.#warmedTiles(graphs.encoder)) {
      await this.encodeLatents(pixels(e), size(e), cells(e));
    }
    for (const u of this.#warmedTiles(graphs.unet)) {
      for (const semantic of this.#graphs.unet.warmUps) {
        await this.predict(cells(u), semantic, size(u), cells(u, semantic.length));
      }
    }
    for (const d of this.#warmedTiles(graphs.decoder)) {
      await this.decodeLatents(cells(d), size(d), pixels(d));
    }
  }

  async dispose(): Promise<void> {
    await this.#graphs.release();
    for (const stages of this.#stages.values()) await stages.release();
  }

  /** Edges in latent cells, the largest first, since its memory then serves the others. */
  #warmedTiles({ tileLatents }: { tileLatents: number }): number[] {
    const { step, fixed } = this.tilePolicy;
    if (!fixed) return [tileLatents];
    const usual = roundUp(usualOutput / this.manifest.latents.downscale, step);
    return [...new Set([tileLatents, Math.min(tileLatents, usual)])];
  }

  #latents(data: Float32Array, { height, width }: LatentSize) {
    return { data, dims: [1, this.manifest.latents.channels, height, width] };
  }

  #pixels(data: Float32Array, { height, width }: LatentSize): Values {
    const { downscale } = this.manifest.latents;
    return { data, dims: [1, 3, height * downscale, width * downscale] };
  }
}

/**
 * Opens a bundle on a device. Keep it while there is room: sessions leak a little on release.
 * @throws invalid_bundle | device_unavailable | device_lost | out_of_device_memory
 */
export async function loadModel(bundleDir: string, options: LoadOptions): Promise<Model> {
  const manifest = await loadManifest(bundleDir);
  const graphs = await openGraphs(bundleDir, manifest, options);
  return new LoadedModel(bundleDir, manifest, graphs, options);
}
