/** Resident memory of processes over time, and whether it grows. */
import { residentMegabytes } from '../test/support/processes.ts';
import { table } from './results.ts';
import { median } from './statistics.ts';

export interface MemoryRow {
  name: string;
  /** Megabytes: median of the first and of the last fifth of the samples, and the highest. */
  first: number;
  last: number;
  highest: number;
  /** Of a straight line through the second half of the samples, so that warming up is left out. */
  megabytesPerMinute: number;
}

interface Sample {
  minutes: number;
  megabytes: number;
}

export class MemoryLog {
  readonly #pids: Record<string, () => number>;
  readonly #samples = new Map<string, Sample[]>();
  readonly #startedAt = performance.now();
  readonly #timer: NodeJS.Timeout;

  /** @param pids by name, as they are at each look: a process may be replaced */
  constructor(pids: Record<string, () => number>, everyMs: number) {
    this.#pids = pids;
    this.#timer = setInterval(() => this.#look(), everyMs).unref();
  }

  stop(): MemoryRow[] {
    clearInterval(this.#timer);
    this.#look();
    return [...this.#samples].map(([name, samples]) => ({ name, ...describe(samples) }));
  }

  #look(): void {
    const minutes = (performance.now() - this.#startedAt) / 60_000;
    for (const [name, pid] of Object.entries(this.#pids)) {
      const megabytes = residentMegabytes(pid(), 'VmRSS');
      if (Number.isNaN(megabytes)) continue;
      this.#samples.set(name, [...(this.#samples.get(name) ?? []), { minutes, megabytes }]);
    }
  }
}

function describe(samples: readonly Sample[]): Omit<MemoryRow, 'name'> {
  const fifth = Math.max(1, Math.floor(samples.length / 5));
  const sizes = samples.map(({ megabytes }) => megabytes);
  return {
    first: median(sizes.slice(0, fifth)),
    last: median(sizes.slice(-fifth)),
    highest: Math.max(...sizes),
    megabytesPerMinute: slope(samples.slice(Math.floor(samples.length / 2))),
  };
}

/** Least squares. */
function slope(samples: readonly Sample[]): number {
  const mean = (of: (sample: Sample) => number) =>
    samples.reduce((sum, sample) => sum + of(sample), 0) / samples.length;
  const x = mean(({ minutes }) => minutes);
  const y = mean(({ megabytes }) => megabytes);
  const covariance = mean(({ minutes, megabytes }) => (minutes - x) * (megabytes - y));
  return covariance / mean(({ minutes }) => (minutes - x) ** 2);
}

export const memoryTable = (rows: readonly MemoryRow[]): string =>
  table(
    [
      'process',
      'first fifth, MB',
      'last fifth, MB',
      'highest, MB',
      'slope of the second half, MB a minute',
    ],
    rows.map(({ name, first, last, highest, megabytesPerMinute }) => [
      name,
      first.toFixed(0),
      last.toFixed(0),
      highest.toFixed(0),
      megabytesPerMinute.toFixed(2),
    ]),
  );
