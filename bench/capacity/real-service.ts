/** The real service on this machine: how long its jobs take, and how long they wait under Poisson arrivals. */
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import sharp from 'sharp';
import { type Deployment, startDeployment } from '../../test/support/deployment.ts';
import { root } from '../service.ts';
import type { Random } from './random.ts';
import { type MeasuredSize, mean, pickSize } from './work.ts';

export interface Setup {
  name: string;
  workers: number;
  /** Jobs that run at the same time, of all workers together. */
  slots: number;
  env: Record<string, string>;
}

export interface SizeShare {
  side: number;
  share: number;
}

/** Times in milliseconds since 1970. */
export interface MeasuredJob {
  side: number;
  createdAt: number;
  startedAt: number;
  endedAt: number;
}

/** What the simulation needs to know of a setup. */
export interface MeasuredService {
  sizes: MeasuredSize[];
  /** As `WorkerKind.speeds`. */
  speeds: number[];
  /** From the end of a job to the start of the next one on the same slot; part of the samples of `sizes`. */
  gapMs: number;
}

interface JobAnswer {
  status: string;
  created_at: string;
  started_at: string;
  completed_at: string;
  error: unknown;
}

/** One that answers with the tile shapes of a size for the first time takes longer. */
const warmUps = 2;
const lookMs = 100;

export class RealService {
  readonly #deployment: Deployment;
  readonly #photos = new Map<number, Uint8Array>();

  private constructor(deployment: Deployment) {
    this.#deployment = deployment;
  }

  static async start({ workers, env }: Setup, sides: readonly number[]): Promise<RealService> {
    const deployment = await startDeployment({
      root,
      workers,
      env: { RESULT_CACHE: 'off', KEEP_MAX_MEGABYTES: '0', ...env },
    });
    const service = new RealService(deployment);
    for (const side of sides) {
      const photo = sharp(path.join(root, 'test/photos/cat-128.jpg')).resize(side, side);
      service.#photos.set(side, new Uint8Array(await photo.png().toBuffer()));
    }
    await deployment.ready();
    for (const side of sides) {
      await service.backlog(Array(warmUps * workers).fill(side));
    }
    return service;
  }

  async stop(): Promise<void> {
    await this.#deployment.stop();
  }

  /** One job after the other: what each takes alone. */
  async alone(sides: readonly number[]): Promise<MeasuredJob[]> {
    const jobs: MeasuredJob[] = [];
    for (const side of sides) jobs.push(await this.#ended(side, await this.#send(side)));
    return jobs;
  }

  /** All at once: what each takes while every slot is in use. */
  async backlog(sides: readonly number[]): Promise<MeasuredJob[]> {
    const sent = [];
    for (const side of sides) sent.push({ side, id: await this.#send(side) });
    const jobs: MeasuredJob[] = [];
    for (const { side, id } of sent) jobs.push(await this.#ended(side, id));
    return jobs;
  }

  /** Sends at the given times, whatever is still in the queue. */
  async openLoop(arrivals: readonly { at: number; side: number }[]): Promise<MeasuredJob[]> {
    const startedAt = performance.now();
    const sending: Promise<{ side: number; id: string }>[] = [];
    for (const { at, side } of arrivals) {
      await delay(Math.max(0, at - (performance.now() - startedAt)));
      sending.push(this.#send(side).then((id) => ({ side, id })));
    }
    const sent = await Promise.all(sending);
    const jobs: MeasuredJob[] = [];
    for (const { side, id } of sent) jobs.push(await this.#ended(side, id));
    return jobs;
  }

  /** @returns the job's id */
  async #send(side: number): Promise<string> {
    const answer = await fetch(`${this.#deployment.url}/upscale`, {
      method: 'POST',
      headers: { 'content-type': 'image/png' },
      body: this.#photos.get(side) ?? new Uint8Array(),
    });
    if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
    return ((await answer.json()) as { id: string }).id;
  }

  async #ended(side: number, id: string): Promise<MeasuredJob> {
    for (;;) {
      const answer = await fetch(`${this.#deployment.url}/upscale/${id}`);
      const job = (await answer.json()) as JobAnswer;
      if (job.status === 'succeeded') {
        const [createdAt, startedAt, endedAt] = [
          job.created_at,
          job.started_at,
          job.completed_at,
        ].map(Date.parse);
        return { side, createdAt, startedAt, endedAt } as MeasuredJob;
      }
      if (job.status !== 'queued' && job.status !== 'processing') {
        throw new Error(`A job ended as ${job.status}: ${JSON.stringify(job.error)}`);
      }
      await delay(lookMs);
    }
  }
}

/** Jobs one after the other, and a backlog in which every slot was in use. */
export interface Phases {
  alone: MeasuredJob[];
  full: MeasuredJob[];
}

export async function measurePhases(
  service: RealService,
  random: Random,
  sizes: readonly SizeShare[],
  jobs: number,
): Promise<Phases> {
  const sides = Array.from({ length: jobs }, () => pickSize(random, sizes).side);
  // Each size often enough, however small its share.
  for (const { side } of sizes) sides.push(side, side, side);
  const alone = await service.alone(sides);
  return { alone, full: await service.backlog([...sides, ...sides]) };
}

/** What the phases say together, in the words of the simulation. */
export function describeService(
  phases: readonly Phases[],
  sizes: readonly SizeShare[],
  slots: number,
): MeasuredService {
  const alone = phases.flatMap((phase) => phase.alone);
  const full = phases.flatMap((phase) => phase.full);
  const gapMs = mean(phases.map((phase) => meanGapMs(phase.full, slots)));
  const times = (jobs: readonly MeasuredJob[], side: number) =>
    jobs.filter((job) => job.side === side).map((job) => job.endedAt - job.startedAt + gapMs);
  const total = (jobs: readonly MeasuredJob[]) =>
    sizes.reduce((sum, { side, share }) => sum + share * mean(times(jobs, side)), 0);
  // How much longer a job takes while all slots are in use; in between, in proportion.
  const slowest = slots === 1 ? 1 : Math.min(1, total(alone) / total(full));
  const speeds = Array.from({ length: slots }, (_, index) =>
    slots === 1 ? 1 : 1 - ((1 - slowest) * index) / (slots - 1),
  );
  return {
    sizes: sizes.map(({ side, share }) => ({
      side,
      share,
      samplesMs: [...times(alone, side), ...times(full, side).map((time) => time * slowest)],
    })),
    speeds,
    gapMs,
  };
}

/** Puts the jobs of a backlog on as many slots, each after the one that ended last before it started. */
export function meanGapMs(jobs: readonly MeasuredJob[], slots: number): number {
  const gaps: number[] = [];
  const ends: number[] = [];
  for (const { startedAt, endedAt } of [...jobs].sort((a, b) => a.startedAt - b.startedAt)) {
    const before = ends.filter((end) => end <= startedAt);
    if (ends.length < slots || before.length === 0) {
      ends.push(endedAt);
      continue;
    }
    const last = Math.max(...before);
    gaps.push(startedAt - last);
    ends[ends.indexOf(last)] = endedAt;
  }
  return gaps.length === 0 ? 0 : mean(gaps);
}
