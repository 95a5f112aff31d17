/**
 * How many workers Kubernetes asks for, given the length of the queue: the arithmetic of KEDA (from zero to one and back)
 * and of the HorizontalPodAutoscaler that KEDA makes (from one up and down), for one external metric with an average
 * value. Pure: the clock and the metric are the caller's. The capacity simulation and the scaling benchmark share it.
 *
 * Sources: KEDA 2.20 `pkg/scaling/executor/scale_scaledobjects.go`; Kubernetes 1.36 `pkg/controller/podautoscaler`
 * (`GetExternalPerPodMetricReplicas`, `stabilizeRecommendationWithBehaviors`, `convertDesiredReplicasWithBehaviorRate`).
 */

/** How much the number of workers may change within a period: by `value` workers, or by `value` % of them. */
interface ScalingPolicy {
  kind: 'pods' | 'percent';
  value: number;
  periodMs: number;
}

/** Of several policies the one that allows the largest change holds (`selectPolicy: Max`). */
interface ScalingRules {
  stabilizationMs: number;
  policies: readonly ScalingPolicy[];
}

export interface AutoscalerSettings {
  /** 0: KEDA removes the last worker when nothing has been in the queue for `cooldownMs`. */
  minWorkers: number;
  maxWorkers: number;
  /** KEDA's `threshold`, as an average value: jobs (waiting, prioritized, delayed and active) for each worker. */
  jobsPerWorker: number;
  /** KEDA's `pollingInterval`: how often it looks whether there is work at all. */
  pollMs: number;
  cooldownMs: number;
  /** How often the HorizontalPodAutoscaler looks (`--horizontal-pod-autoscaler-sync-period`). */
  syncMs: number;
  /** Relative deviation from the target that changes nothing. */
  tolerance: number;
  up: ScalingRules;
  down: ScalingRules;
}

/** As the chart sets it (helm/pisa-serve, `workerDefaults.scaling`); `syncMs` and `tolerance` are those of Kubernetes. */
export const chartAutoscaler = {
  minWorkers: 0,
  pollMs: 15_000,
  cooldownMs: 300_000,
  syncMs: 15_000,
  tolerance: 0.1,
  up: {
    stabilizationMs: 0,
    policies: [
      { kind: 'percent', value: 100, periodMs: 15_000 },
      { kind: 'pods', value: 4, periodMs: 15_000 },
    ],
  },
  down: {
    stabilizationMs: 300_000,
    policies: [
      { kind: 'percent', value: 50, periodMs: 60_000 },
      { kind: 'pods', value: 1, periodMs: 60_000 },
    ],
  },
} as const satisfies Partial<AutoscalerSettings>;

/**
 * Jobs that a worker may have, running and waiting, so that the last of them starts about in time: a worker that ends a job
 * every `secondsPerJob` ends this many within the wait that is aimed at. At least 1: a worker that works is needed.
 */
export const jobsPerWorker = (secondsPerJob: number, waitTargetSeconds: number): number =>
  Math.max(1, waitTargetSeconds / secondsPerJob);

/** What the metric alone asks for, before limits of any kind. */
export function proposeWorkers(
  jobs: number,
  workers: number,
  { jobsPerWorker: target, tolerance }: Pick<AutoscalerSettings, 'jobsPerWorker' | 'tolerance'>,
): number {
  const usage = jobs / (target * workers);
  const isWithin = usage >= 1 - tolerance && usage <= 1 + tolerance;
  return isWithin ? workers : Math.ceil(jobs / target);
}

interface Stamped {
  at: number;
  /** A number of workers that was recommended, or by which their number changed. */
  workers: number;
}

export class Autoscaler {
  readonly #settings: AutoscalerSettings;
  #workers: number;
  #activeAt = Number.NEGATIVE_INFINITY;
  #recommended: Stamped[] = [];
  #added: Stamped[] = [];
  #removed: Stamped[] = [];

  /** @param workers that there are at the start */
  constructor(settings: AutoscalerSettings, workers: number = settings.minWorkers) {
    this.#settings = settings;
    this.#workers = workers;
  }

  /** How many workers there shall be. */
  get workers(): number {
    return this.#workers;
  }

  /** KEDA's look, every `pollMs`. */
  poll(now: number, jobs: number): void {
    const { minWorkers, cooldownMs } = this.#settings;
    if (jobs > 0) {
      this.#activeAt = now;
      if (this.#workers === 0) this.#workers = Math.max(1, minWorkers);
    } else if (minWorkers === 0 && this.#workers > 0 && this.#activeAt + cooldownMs < now) {
      this.#workers = 0;
    } else if (this.#workers < minWorkers) {
      this.#workers = minWorkers;
    }
  }

  /** The HorizontalPodAutoscaler's look, every `syncMs`. It rests while there are no workers. */
  sync(now: number, jobs: number): void {
    if (this.#workers === 0) return;
    const proposed = proposeWorkers(jobs, this.#workers, this.#settings);
    const wanted = this.#limitRate(now, this.#stabilize(now, proposed));
    const change = wanted - this.#workers;
    if (change > 0) this.#added.push({ at: now, workers: change });
    if (change < 0) this.#removed.push({ at: now, workers: -change });
    this.#workers = wanted;
  }

  /** Up no further than the least, down no further than the most that was recommended within the windows. */
  #stabilize(now: number, proposed: number): number {
    const { up, down } = this.#settings;
    let least = proposed;
    let most = proposed;
    for (const { at, workers } of this.#recommended) {
      if (at > now - up.stabilizationMs) least = Math.min(least, workers);
      if (at > now - down.stabilizationMs) most = Math.max(most, workers);
    }
    const longestMs = Math.max(up.stabilizationMs, down.stabilizationMs);
    this.#recommended = this.#recommended.filter(({ at }) => at > now - longestMs);
    this.#recommended.push({ at: now, workers: proposed });
    return Math.min(Math.max(this.#workers, least), most);
  }

  #limitRate(now: number, wanted: number): number {
    const { up, down, maxWorkers } = this.#settings;
    // The HorizontalPodAutoscaler never goes below one: that step is KEDA's.
    const minWorkers = Math.max(1, this.#settings.minWorkers);
    const current = this.#workers;
    this.#forget(now);
    if (wanted > current) {
      const limit = this.#limits(now, up.policies, 1).reduce((a, b) => Math.max(a, b));
      return Math.min(wanted, maxWorkers, Math.max(limit, current));
    }
    if (wanted < current) {
      const limit = this.#limits(now, down.policies, -1).reduce((a, b) => Math.min(a, b));
      return Math.max(wanted, minWorkers, Math.min(limit, current));
    }
    return Math.min(Math.max(wanted, minWorkers), maxWorkers);
  }

  /** Where each policy stops: from what there was at the start of its period. */
  #limits(now: number, policies: readonly ScalingPolicy[], direction: 1 | -1): number[] {
    return policies.map(({ kind, value, periodMs }) => {
      const within = (changes: readonly Stamped[]) =>
        changes.reduce((sum, { at, workers }) => (at > now - periodMs ? sum + workers : sum), 0);
      const before = this.#workers - within(this.#added) + within(this.#removed);
      if (kind === 'pods') return before + direction * value;
      const limit = before * (1 + (direction * value) / 100);
      return direction > 0 ? Math.ceil(limit) : Math.trunc(limit);
    });
  }

  #forget(now: number): void {
    const { up, down } = this.#settings;
    const longestMs = Math.max(...[...up.policies, ...down.policies].map((one) => one.periodMs));
    const isRecent = ({ at }: Stamped) => at > now - longestMs;
    this.#added = this.#added.filter(isRecent);
    this.#removed = this.#removed.filter(isRecent);
  }
}
