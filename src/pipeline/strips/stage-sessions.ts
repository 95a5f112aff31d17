/** The graphs of all stages of an encoder or decoder, opened when the first large image needs them. */
import { open } from 'node:fs/promises';
import { GraphSession, type SessionOptions, type Signature } from '../session.ts';
import type { StageManifest, StripsManifest } from './schema.ts';
import type { ElementType } from './stored-rows.ts';

export interface StageSessions {
  readonly manifest: StripsManifest;
  /** Of the tensors; statistics and edges are always float32. */
  readonly dtype: ElementType;
  /** In the manifest's order. */
  readonly sessions: readonly GraphSession[];
}

function signaturesOf(stage: StageManifest, groups: number): [Signature, Signature] {
  const inputs: Signature = Object.fromEntries(
    stage.reads.map(({ input }) => [input, [null, null, null]]),
  );
  if (stage.statistics !== null) Object.assign(inputs, { mean: [groups], variance: [groups] });
  if (stage.padded) Object.assign(inputs, { edges: [2] });
  const outputs: Signature = Object.fromEntries(
    stage.writes.map(({ output }) => [output, [null, null, null]]),
  );
  if (stage.writes[0]?.statistics) {
    Object.assign(outputs, { mean_out: [groups], variance_out: [groups] });
  }
  return [inputs, outputs];
}

/**
 * @param file absolute path of the stages
 * @throws invalid_bundle
 */
export async function openStages(
  file: string,
  manifest: StripsManifest,
  dtype: ElementType,
  options: SessionOptions,
): Promise<StageSessions> {
  const sessions: GraphSession[] = [];
  const handle = await open(file);
  try {
    for (const [i, stage] of manifest.stages.entries()) {
      const bytes = new Uint8Array(stage.bytes);
      await handle.read(bytes, 0, stage.bytes, stage.offset);
      const [inputs, outputs] = signaturesOf(stage, manifest.groups);
      const float32 = ['mean', 'variance', 'edges', 'mean_out', 'variance_out'];
      const contract = { file: `${file}, stage ${i}`, bytes, dtype, float32, inputs, outputs };
      sessions.push(await GraphSession.open(contract, options));
    }
  } catch (error) {
    for (const session of sessions) await session.release();
    throw error;
  } finally {
    await handle.close();
  }
  return { manifest, dtype, sessions };
}
