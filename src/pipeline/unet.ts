/**
 * The UNet on a device, in one of two forms: gated, a graph that computes both residuals in one run and carries the semantic
 * LoRA as a branch of each layer, or merged, a graph for each residual with that LoRA left out of its weights or added to them.
 */
import type { Manifest } from './manifest.ts';
import type { GraphSession, Signature, Values } from './session.ts';

export interface UNet {
  /** Values of `semantic` that a warm-up predicts, so that nothing is new to the first job. */
  readonly warmUps: readonly (readonly number[])[];
  /**
   * @param latents dims [1,C,h,w]
   * @param semantic one entry per evaluation: 0 → ε_pix, 1 → ε_PiSA
   * @param residuals of length semantic.length · C · h · w
   */
  predict(
    latents: Values & { data: Float32Array },
    semantic: readonly number[],
    residuals: Float32Array,
  ): Promise<void>;
}

export type OpenGraph = (file: string, inputs: Signature) => Promise<GraphSession>;

/**
 * @param isBatched whether both residuals are to be one run. That keeps a GPU busy, with one set of weights in its memory. A
 *   CPU gains nothing from a batch, which would need twice the memory, and is spared the branches where there are merged
 *   graphs.
 */
export async function openUNet(
  { graphs, latents: { channels } }: Pick<Manifest, 'graphs' | 'latents'>,
  isBatched: boolean,
  open: OpenGraph,
): Promise<UNet> {
  const { file, merged } = graphs.unet;
  const latents = [null, channels, null, null];
  if (isBatched || !merged) {
    return gatedUNet(await open(file, { latents, semantic: [null] }), isBatched);
  }
  const pix = await open(merged.pix.file, { latents });
  return mergedUNet(pix, await open(merged.pisa.file, { latents }));
}

function gatedUNet(session: GraphSession, isBatched: boolean): UNet {
  const run = async (latents: Values, semantic: readonly number[], residuals: Float32Array) => {
    const n = semantic.length;
    const dims = [n, ...latents.dims.slice(1)];
    const batch = n === 1 ? latents.data : new Float32Array(residuals.length);
    if (n > 1) for (let i = 0; i < n; i++) batch.set(latents.data, i * latents.data.length);
    await session.run(
      {
        latents: { data: batch, dims },
        semantic: { data: Float32Array.from(semantic), dims: [n] },
      },
      { residual: { data: residuals, dims } },
    );
  };
  if (isBatched) return { warmUps: [[1], [0, 1]], predict: run };
  return {
    warmUps: [[1]],
    predict: (latents, semantic, residuals) =>
      oneByOne(semantic, residuals, (which, residual) => run(latents, [which], residual)),
  };
}

function mergedUNet(pix: GraphSession, pisa: GraphSession): UNet {
  return {
    warmUps: [[1], [0]],
    predict: (latents, semantic, residuals) =>
      oneByOne(semantic, residuals, (which, data) =>
        (which === 0 ? pix : pisa).run({ latents }, { residual: { data, dims: latents.dims } }),
      ),
  };
}

async function oneByOne(
  semantic: readonly number[],
  residuals: Float32Array,
  run: (which: number, residual: Float32Array) => Promise<void>,
): Promise<void> {
  const length = residuals.length / semantic.length;
  for (const [i, which] of semantic.entries()) {
    await run(which, residuals.subarray(i * length, (i + 1) * length));
  }
}
