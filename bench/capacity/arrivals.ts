/** When images arrive, and how much work each is. */
import type { Random } from './random.ts';

export interface Arrival {
  /** Milliseconds since the start; never decreasing. */
  at: number;
  /** Milliseconds on a worker that does nothing else. */
  workMs: number;
}

/** Bursts of exponential length and distance, within which more images arrive. */
export interface Bursts {
  /** Rate within a burst / rate between two. */
  factor: number;
  meanMs: number;
  /** Part of the time that is within a burst. */
  share: number;
}

interface ArrivalOptions {
  /** Images in a minute, on average. */
  perMinute: number;
  durationMs: number;
  workMs: () => number;
  /** Absent: a Poisson process. */
  bursts?: Bursts | undefined;
}

export function* arrivals(
  random: Random,
  { perMinute, durationMs, workMs, bursts }: ArrivalOptions,
): Generator<Arrival> {
  const calm = bursts ? 1 / (1 + bursts.share * (bursts.factor - 1)) : 1;
  const calmGapMs = 60_000 / (perMinute * calm);
  const calmMeanMs = bursts ? (bursts.meanMs * (1 - bursts.share)) / bursts.share : 0;
  let isBurst = bursts ? random.uniform() < bursts.share : false;
  const phaseMs = () => random.exponential(isBurst ? (bursts?.meanMs ?? 0) : calmMeanMs);
  let phaseEndsAt = bursts ? phaseMs() : Number.POSITIVE_INFINITY;
  let at = 0;
  for (;;) {
    const next = at + random.exponential(isBurst ? calmGapMs / (bursts?.factor ?? 1) : calmGapMs);
    if (next > phaseEndsAt && phaseEndsAt <= durationMs) {
      // The exponential distribution has no memory: the next gap starts anew where the rate changes.
      at = phaseEndsAt;
      isBurst = !isBurst;
      phaseEndsAt = at + phaseMs();
      continue;
    }
    if (next > durationMs) return;
    at = next;
    yield { at, workMs: workMs() };
  }
}
