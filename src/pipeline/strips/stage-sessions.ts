/** The graphs of the stages of an encoder or decoder, for one image after the other. */
import { open } from 'node:fs/promises';
import { Fifo } from '../../fifo.ts';
import { GraphSession, type SessionOptions, type Signature } from '../session.ts';
import type { StageManifest, StripsManifest } from './schema.ts';
import type { ElementType } from './stored-rows.ts';

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
 * On a GPU one stage at a time has a session, whatever number of jobs is in work: their runs take turns anyway, and memory is
 * planned for one strip.
 */
const onGpu = new Fifo();

const float32 = ['mean', 'variance', 'edges', 'mean_out', 'variance_out'];

export class StageSessions {
  readonly manifest: StripsManifest;
  /** Of the tensors; statistics and edges are always float32. */
  readonly dtype: ElementType;
  readonly #file: string;
  readonly #options: SessionOptions;
  readonly #kept = new Map<number, Promise<GraphSession>>();

  /** @param file absolute path of the stages */
  constructor(file: string, manifest: StripsManifest, dtype: ElementType, options: SessionOptions) {
    this.#file = file;
    this.manifest = manifest;
    this.dtype = dtype;
    // There are dozens of sessions. If each kept the memory of its largest run, the sum would be many times what a
    // strip needs: 7.1 instead of 1.5 GB for a small decoder at 1024² pixels.
    this.#options = { ...options, keepsMemory: false };
  }

  /**
   * Gives `work` the session of one stage, opened when it is needed first.
   * @throws invalid_bundle | device_unavailable | device_lost | out_of_device_memory
   */
  async with<T>(index: number, work: (session: GraphSession) => Promise<T>): Promise<T> {
    if (this.#options.executionProvider === 'cpu') return work(await this.#keep(index));
    return onGpu.take(undefined, async () => {
      // A GPU's allocator gives memory back with its session only.
      const session = await this.#open(index);
      try {
        return await work(session);
      } finally {
        await session.release();
      }
    });
  }

  async release(): Promise<void> {
    const sessions = await Promise.all(this.#kept.values());
    this.#kept.clear();
    for (const session of sessions) await session.release();
  }

  /** Two images that need it at once get one session. */
  #keep(index: number): Promise<GraphSession> {
    const opening = this.#kept.get(index) ?? this.#open(index);
    this.#kept.set(index, opening);
    // It may succeed later: a failure is not kept.
    opening.catch(() => this.#kept.delete(index));
    return opening;
  }

  async #open(index: number): Promise<GraphSession> {
    const stage = this.manifest.stages[index] as StageManifest;
    const bytes = new Uint8Array(stage.bytes);
    const handle = await open(this.#file);
    try {
      await handle.read(bytes, 0, stage.bytes, stage.offset);
    } finally {
      await handle.close();
    }
    const [inputs, outputs] = signaturesOf(stage, this.manifest.groups);
    const file = `${this.#file}, stage ${index}`;
    const contract = { file, bytes, dtype: this.dtype, float32, inputs, outputs };
    return GraphSession.open(contract, this.#options);
  }
}
