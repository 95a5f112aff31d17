/**
 * Scaling as it happens: a real queue in a real Redis, real worker processes that are started and ended as the autoscaler
 * decides, under a load that rises tenfold and goes away. Where a worker has to go, the worst is chosen: one that runs a job.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { type Deployment, type Replica, runningJobs } from '../../test/support/deployment.ts';
import { Autoscaler, type AutoscalerSettings, proposeWorkers } from './controller.ts';
import { jobsInQueue } from './queue-length.ts';

/** So many images a second, for so long. */
interface Phase {
  name: string;
  perSecond: number;
  ms: number;
  /** Ends it earlier: when there are no more workers than these, nor shall be. */
  untilWorkers?: number;
}

export interface FollowOptions {
  settings: AutoscalerSettings;
  phases: readonly Phase[];
  photo: Uint8Array;
  onProgress?: (text: string) => void;
}

/** Milliseconds since the load began. */
export interface Sample {
  at: number;
  phase: string;
  jobs: number;
  wanted: number;
  /** Processes, those that still finish a job included. */
  running: number;
}

export interface FollowReport {
  samples: Sample[];
  /** For each number of workers: when the queue first asked for as many, and when as many were wanted. */
  rises: { workers: number; askedAt: number; wantedAt: number }[];
  /** When the queue was empty for good, and when no more than the fewest workers were wanted. */
  emptyAt: number;
  fewestAt: number;
  accepted: number;
  /** Jobs by final status. */
  statuses: Record<string, number>;
  /** Jobs that were started more often than once: dropped by a worker, or lost. */
  startedAgain: number;
  ended: { workers: number; whileRunning: number; exitCodes: (number | null)[] };
}

const sampleMs = 200;
const adaptMs = 100;
/** How long to look for a worker that runs a job, before one that does not is ended. */
const worstMomentMs = 10_000;

export async function followLoad(
  deployment: Deployment,
  options: FollowOptions,
): Promise<FollowReport> {
  return new Following(deployment, options).run();
}

class Following {
  readonly #deployment: Deployment;
  readonly #options: FollowOptions;
  readonly #autoscaler: Autoscaler;
  readonly #startedAt = performance.now();
  readonly #samples: Sample[] = [];
  readonly #ids: string[] = [];
  readonly #ending: Promise<void>[] = [];
  readonly #ended = { workers: 0, whileRunning: 0, exitCodes: [] as (number | null)[] };
  #workers: Replica[] = [];
  #leaving = 0;
  #phase = '';
  #stopped = false;

  constructor(deployment: Deployment, options: FollowOptions) {
    this.#deployment = deployment;
    this.#options = options;
    this.#autoscaler = new Autoscaler(options.settings);
  }

  async run(): Promise<FollowReport> {
    const { pollMs, syncMs } = this.#options.settings;
    const loops = Promise.all([
      this.#every(pollMs, async () => this.#autoscaler.poll(this.#now, await this.#jobs())),
      this.#every(syncMs, async () => this.#autoscaler.sync(this.#now, await this.#jobs())),
      this.#every(sampleMs, () => this.#sample()),
      this.#every(adaptMs, () => this.#adapt()),
    ]);
    const times = this.#followPhases().finally(() => {
      this.#stopped = true;
    });
    // Whichever fails first ends the run.
    const [{ emptyAt, fewestAt }] = await Promise.all([times, loops]);
    return {
      samples: this.#samples,
      rises: this.#rises(),
      emptyAt,
      fewestAt,
      accepted: this.#ids.length,
      ...(await this.#ends()),
      ended: this.#ended,
    };
  }

  async #followPhases(): Promise<Pick<FollowReport, 'emptyAt' | 'fewestAt'>> {
    const { minWorkers } = this.#options.settings;
    const sending: Promise<void>[] = [];
    for (const phase of this.#options.phases) await this.#load(phase, sending);
    await Promise.all(sending);
    this.#phase = 'none';
    while ((await this.#jobs()) > 0) await delay(sampleMs);
    const emptyAt = this.#now;
    while (this.#autoscaler.workers > minWorkers) await delay(sampleMs);
    const fewestAt = this.#now;
    while (this.#workers.length > minWorkers) await delay(sampleMs);
    await Promise.all(this.#ending);
    return { emptyAt, fewestAt };
  }

  get #now(): number {
    return performance.now() - this.#startedAt;
  }

  #jobs(): Promise<number> {
    return jobsInQueue(this.#deployment.redis);
  }

  async #every(everyMs: number, action: () => Promise<void>): Promise<void> {
    for (let next = this.#now + everyMs; ; next = Math.max(next + everyMs, this.#now)) {
      await delay(Math.max(0, next - this.#now));
      if (this.#stopped) return;
      await action();
    }
  }

  async #load(phase: Phase, sending: Promise<void>[]): Promise<void> {
    const { name, perSecond, ms, untilWorkers = -1 } = phase;
    this.#phase = name;
    this.#options.onProgress?.(name);
    const until = this.#now + ms;
    for (let next = this.#now; perSecond > 0 && next < until; next += 1000 / perSecond) {
      await delay(Math.max(0, next - this.#now));
      if (Math.max(this.#workers.length, this.#autoscaler.workers) <= untilWorkers) return;
      sending.push(this.#send());
    }
    await delay(Math.max(0, until - this.#now));
  }

  async #send(): Promise<void> {
    const answer = await fetch(`${this.#deployment.url}/upscale`, {
      method: 'POST',
      headers: { 'content-type': 'image/png' },
      body: this.#options.photo,
    });
    if (answer.status !== 202) throw new Error(`${answer.status} ${await answer.text()}`);
    this.#ids.push(((await answer.json()) as { id: string }).id);
  }

  async #sample(): Promise<void> {
    const jobs = await this.#jobs();
    this.#samples.push({
      at: this.#now,
      phase: this.#phase,
      jobs,
      wanted: this.#autoscaler.workers,
      running: this.#workers.length + this.#leaving,
    });
  }

  /** What the Deployment's controller does: as many processes as are wanted. */
  async #adapt(): Promise<void> {
    while (this.#workers.length < this.#autoscaler.workers) {
      this.#workers.push(await this.#deployment.add('worker'));
    }
    const victim = await this.#worst();
    if (!victim) return;
    this.#workers = this.#workers.filter((worker) => worker !== victim);
    this.#ending.push(this.#end(victim));
  }

  /** @returns undefined as soon as none has to go */
  async #worst(): Promise<Replica | undefined> {
    const deadline = this.#now + worstMomentMs;
    while (this.#workers.length > this.#autoscaler.workers) {
      for (const worker of this.#workers) {
        if ((await runningJobs(worker.url)) > 0) {
          this.#ended.whileRunning += 1;
          return worker;
        }
      }
      if (this.#now > deadline) return this.#workers[0];
      await delay(20);
    }
    return undefined;
  }

  async #end({ process }: Replica): Promise<void> {
    this.#leaving += 1;
    await process.end('SIGTERM');
    this.#leaving -= 1;
    this.#ended.workers += 1;
    this.#ended.exitCodes.push(process.exitCode);
  }

  #rises(): FollowReport['rises'] {
    const { settings } = this.#options;
    const rises: FollowReport['rises'] = [];
    for (let workers = 1; workers <= settings.maxWorkers; workers += 1) {
      const asked = this.#samples.find(
        ({ jobs, wanted }) =>
          wanted >= workers || proposeWorkers(jobs, Math.max(1, wanted), settings) >= workers,
      );
      const got = this.#samples.find(({ wanted }) => wanted >= workers);
      if (asked && got) rises.push({ workers, askedAt: asked.at, wantedAt: got.at });
    }
    return rises;
  }

  async #ends(): Promise<Pick<FollowReport, 'statuses' | 'startedAgain'>> {
    const statuses: Record<string, number> = {};
    let startedAgain = 0;
    for (const id of this.#ids) {
      const answer = await fetch(`${this.#deployment.url}/upscale/${id}`);
      const { status } = (await answer.json()) as { status: string };
      statuses[status] = (statuses[status] ?? 0) + 1;
      // BullMQ's counter of starts.
      const starts = Number(await this.#deployment.redis.hget(`bull:upscale:${id}`, 'ats'));
      if (starts !== 1) startedAgain += 1;
    }
    return { statuses, startedAgain };
  }
}
