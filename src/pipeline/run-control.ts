/**
 * What every stage shares besides its data: progress, cancellation and time for the event loop.
 * Graph runs and pixel loops block the thread, so between tiles and bands the loop gets a turn, in which
 * messages of the parent process arrive.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Progress, Stage, StageTimings } from '../jobs/job.ts';
import { stages } from '../jobs/job.ts';

/** One of several equal parts of a stage, counted from 0. */
export interface StagePart {
  readonly index: number;
  readonly count: number;
}

/** A pixel loop blocks for at most about this long. */
const sliceMs = 25;

/** The stages that each section of a photo goes through (sections.ts). */
const sectionStages: ReadonlySet<Stage> = new Set([
  'encode_latents',
  'predict_residual',
  'decode_latents',
  'color_fix',
]);

export type StageWeights = Readonly<Record<Stage, number>>;

const sumOf = (weights: StageWeights, of: readonly Stage[]): number =>
  of.reduce((sum, stage) => sum + weights[stage], 0);

export class RunControl {
  readonly timingsMs: StageTimings = Object.fromEntries(
    stages.map((stage) => [stage, 0]),
  ) as StageTimings;
  readonly #signal: AbortSignal | undefined;
  readonly #onProgress: ((progress: Progress) => void) | undefined;
  #weights: StageWeights | undefined;
  #stage: Stage = stages[0];
  #part: StagePart = { index: 0, count: 1 };
  #doneOfStage = 0;
  #section: StagePart = { index: 0, count: 1 };
  #fraction = 0;
  #turnStartedAt = performance.now();

  constructor(
    signal?: AbortSignal | undefined,
    onProgress?: ((progress: Progress) => void) | undefined,
  ) {
    this.#signal = signal;
    this.#onProgress = onProgress;
  }

  /** How much work each stage is, in any one unit. Until it is known, progress stays at 0. */
  setWeights(weights: StageWeights): void {
    this.#weights = weights;
  }

  /** Which section of the photo the next stages work on. */
  beginSection(section: StagePart): void {
    this.#section = section;
  }

  /**
   * Runs one stage: times it and looks for cancellation after it.
   * @param part when the stage runs several times in one job
   * @throws the reason of the signal
   */
  async stage<T>(
    stage: Stage,
    work: () => T | Promise<T>,
    part: StagePart = { index: 0, count: 1 },
  ): Promise<T> {
    this.#signal?.throwIfAborted();
    this.#stage = stage;
    this.#part = part;
    this.advanceTo(0);
    const startedAt = performance.now();
    const result = await work();
    this.timingsMs[stage] += performance.now() - startedAt;
    this.advanceTo(1);
    await this.yield();
    return result;
  }

  /** @param share of the running stage (or part of it) that is done, 0..1 */
  advanceTo(share: number): void {
    this.#doneOfStage = (this.#part.index + share) / this.#part.count;
    this.#report();
  }

  /** Between bands of a pixel loop: gives the event loop a turn when one is due. */
  async breathe(): Promise<void> {
    if (performance.now() - this.#turnStartedAt > sliceMs) await this.yield();
  }

  /**
   * Between tiles: gives the event loop a turn.
   * @throws the reason of the signal
   */
  async yield(): Promise<void> {
    await nextTurn();
    this.#turnStartedAt = performance.now();
    this.#signal?.throwIfAborted();
  }

  #report(): void {
    const weights = this.#weights;
    if (weights) {
      const total = sumOf(weights, stages);
      const before = stages.slice(0, stages.indexOf(this.#stage));
      let done = sumOf(weights, before) + weights[this.#stage] * this.#doneOfStage;
      if (sectionStages.has(this.#stage)) {
        const { index, count } = this.#section;
        const ahead = sumOf(
          weights,
          before.filter((stage) => !sectionStages.has(stage)),
        );
        const all = sumOf(weights, [...sectionStages]);
        done = ahead + (index * all + done - ahead) / count;
      }
      const fraction = done / total;
      this.#fraction = Math.max(this.#fraction, Math.min(fraction, 1));
    }
    this.#onProgress?.({ stage: this.#stage, fraction: this.#fraction });
  }
}
