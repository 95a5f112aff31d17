/**
 * The service as a queue: jobs in the order of their arrival, workers that run up to `slots` of them at once, and an
 * autoscaler that starts workers, which take a while, and ends them, which waits for what they run.
 */
import { Autoscaler, type AutoscalerSettings } from '../scaling/controller.ts';
import type { Arrival } from './arrivals.ts';
import { EventLoop } from './event-loop.ts';

export interface WorkerKind {
  /** Speed of each job while 1, 2, … of them run on the worker; 1 is that of a job alone. Its length is the number of slots. */
  speeds: readonly number[];
}

interface Scaling extends AutoscalerSettings {
  /** From the decision to start a worker until it takes jobs. It is paid for. */
  coldStartMs: number;
}

export interface SimulationOptions {
  arrivals: Iterable<Arrival>;
  worker: WorkerKind;
  /** A number that stays, or how it changes. */
  workers: number | Scaling;
  /** Jobs that arrive earlier are worked on but not counted, nor is the time of workers until then. */
  warmUpMs?: number;
}

export interface SimulationResult {
  /** Milliseconds from arrival to start, and from arrival to end, of each job that counts. */
  waitsMs: Float64Array;
  totalsMs: Float64Array;
  /** Workers × milliseconds, cold starts included. */
  workerMs: number;
  /** Highest number of workers that were wanted. */
  mostWorkers: number;
  /** From the end of the warm-up to the last end of a job. */
  spanMs: number;
  /** Jobs that a worker which was to end still ran. Each was finished. */
  drained: number;
  /** Workers wanted at the end. */
  workersAtEnd: number;
}

interface Running {
  arrivedAt: number;
  leftMs: number;
}

interface SimulatedWorker {
  state: 'starting' | 'ready' | 'draining' | 'gone';
  running: Running[];
  /** When `leftMs` of what runs was last brought up to date. */
  updatedAt: number;
  /** Outdates the end that was foreseen before. */
  version: number;
  paidFrom: number;
  /** Is in the list of workers that wait for a job. */
  isWaiting: boolean;
}

/** Rounding of the times that are left; far below a millisecond. */
const doneMs = 1e-6;

export function simulate(options: SimulationOptions): SimulationResult {
  return new Simulation(options).run();
}

class Simulation {
  readonly #loop = new EventLoop();
  readonly #arrivals: Iterator<Arrival>;
  readonly #speeds: readonly number[];
  readonly #warmUpMs: number;
  readonly #scaling: Scaling | undefined;
  readonly #autoscaler: Autoscaler | undefined;
  readonly #queue = new Fifo<Arrival>();
  /** Workers with a free slot, the one that waits longest first: as Redis serves blocked clients. */
  readonly #waiting = new Fifo<SimulatedWorker>();
  readonly #workers = new Set<SimulatedWorker>();
  readonly #waits: number[] = [];
  readonly #totals: number[] = [];
  #arrivalsEnded = false;
  #active = 0;
  #workerMs = 0;
  #mostWorkers = 0;
  #lastEnd = 0;
  #drained = 0;

  constructor({ arrivals, worker, workers, warmUpMs = 0 }: SimulationOptions) {
    this.#arrivals = arrivals[Symbol.iterator]();
    this.#speeds = worker.speeds;
    this.#warmUpMs = warmUpMs;
    this.#lastEnd = warmUpMs;
    if (typeof workers === 'number') {
      this.#scaling = undefined;
      this.#autoscaler = undefined;
      this.#adapt(workers, 0);
    } else {
      this.#scaling = workers;
      this.#autoscaler = new Autoscaler(workers);
      // What there is at the start is up.
      this.#adapt(this.#autoscaler.workers, 0);
      this.#loop.every(workers.pollMs, () =>
        this.#look((now, jobs) => this.#autoscaler?.poll(now, jobs)),
      );
      this.#loop.every(workers.syncMs, () =>
        this.#look((now, jobs) => this.#autoscaler?.sync(now, jobs)),
      );
    }
  }

  run(): SimulationResult {
    this.#arriveNext();
    this.#loop.run();
    if (this.#jobs > 0) throw new Error(`${this.#jobs} jobs were never worked on.`);
    for (const worker of this.#workers) this.#pay(worker, this.#lastEnd);
    return {
      waitsMs: Float64Array.from(this.#waits),
      totalsMs: Float64Array.from(this.#totals),
      workerMs: this.#workerMs,
      mostWorkers: this.#mostWorkers,
      spanMs: this.#lastEnd - this.#warmUpMs,
      drained: this.#drained,
      workersAtEnd: this.#autoscaler?.workers ?? this.#workers.size,
    };
  }

  /** Waiting and running: what the autoscaler reads. */
  get #jobs(): number {
    return this.#queue.length + this.#active;
  }

  #arriveNext(): void {
    const { value, done } = this.#arrivals.next();
    if (done) {
      this.#arrivalsEnded = true;
      return;
    }
    const arrival: Arrival = value;
    this.#loop.at(arrival.at, () => {
      this.#queue.push(arrival);
      this.#dispatch();
      this.#arriveNext();
    });
  }

  /** @returns whether there is a reason to look again: work, or workers that will go */
  #look(decide: (now: number, jobs: number) => void): boolean {
    const { now } = this.#loop;
    decide(now, this.#jobs);
    const { minWorkers = 0, coldStartMs = 0 } = this.#scaling ?? {};
    const wanted = this.#autoscaler?.workers ?? 0;
    this.#adapt(wanted, coldStartMs);
    return !this.#arrivalsEnded || this.#jobs > 0 || wanted > minWorkers;
  }

  #adapt(wanted: number, coldStartMs: number): void {
    this.#mostWorkers = Math.max(this.#mostWorkers, wanted);
    const staying = [...this.#workers].filter(
      ({ state }) => state === 'starting' || state === 'ready',
    );
    for (let more = staying.length; more < wanted; more += 1) this.#startWorker(coldStartMs);
    // Kubernetes ends those first that are not ready, then by deletion cost: those that run less.
    const rank = ({ state, running }: SimulatedWorker) =>
      state === 'starting' ? -1 : running.length;
    const leaving = staying.sort((a, b) => rank(a) - rank(b)).slice(0, staying.length - wanted);
    for (const worker of leaving) {
      this.#drained += worker.running.length;
      worker.state = 'draining';
      if (worker.running.length === 0) this.#remove(worker);
    }
  }

  #startWorker(coldStartMs: number): void {
    const { now } = this.#loop;
    const worker: SimulatedWorker = {
      state: 'starting',
      running: [],
      updatedAt: now,
      version: 0,
      paidFrom: now,
      isWaiting: false,
    };
    this.#workers.add(worker);
    this.#loop.at(now + coldStartMs, () => {
      if (worker.state !== 'starting') return;
      worker.state = 'ready';
      this.#offer(worker);
      this.#dispatch();
    });
  }

  #remove(worker: SimulatedWorker): void {
    worker.state = 'gone';
    this.#workers.delete(worker);
    this.#pay(worker, this.#loop.now);
  }

  #pay({ paidFrom }: SimulatedWorker, until: number): void {
    this.#workerMs += Math.max(0, until - Math.max(paidFrom, this.#warmUpMs));
  }

  #offer(worker: SimulatedWorker): void {
    if (worker.isWaiting || worker.state !== 'ready') return;
    if (worker.running.length >= this.#speeds.length) return;
    worker.isWaiting = true;
    this.#waiting.push(worker);
  }

  #dispatch(): void {
    while (this.#queue.length > 0) {
      const worker = this.#waiting.shift();
      if (!worker) return;
      worker.isWaiting = false;
      if (worker.state !== 'ready') continue;
      const job = this.#queue.shift();
      if (!job) return;
      this.#start(worker, job);
      this.#offer(worker);
    }
  }

  #start(worker: SimulatedWorker, { at, workMs }: Arrival): void {
    const { now } = this.#loop;
    this.#advance(worker);
    worker.running.push({ arrivedAt: at, leftMs: workMs });
    this.#active += 1;
    if (at >= this.#warmUpMs) this.#waits.push(now - at);
    this.#foreseeEnd(worker);
  }

  /** Takes off what has been done since the last look. */
  #advance(worker: SimulatedWorker): void {
    const { now } = this.#loop;
    const done = (now - worker.updatedAt) * this.#speedOf(worker);
    for (const job of worker.running) job.leftMs -= done;
    worker.updatedAt = now;
  }

  #speedOf({ running }: SimulatedWorker): number {
    return this.#speeds[running.length - 1] ?? 1;
  }

  #foreseeEnd(worker: SimulatedWorker): void {
    worker.version += 1;
    if (worker.running.length === 0) return;
    const { version } = worker;
    const leftMs = worker.running.reduce((least, job) => Math.min(least, job.leftMs), Infinity);
    const at = this.#loop.now + Math.max(0, leftMs) / this.#speedOf(worker);
    this.#loop.at(at, () => {
      if (worker.version === version) this.#end(worker);
    });
  }

  #end(worker: SimulatedWorker): void {
    const { now } = this.#loop;
    this.#advance(worker);
    for (const { arrivedAt } of worker.running.filter(({ leftMs }) => leftMs <= doneMs)) {
      this.#active -= 1;
      if (arrivedAt >= this.#warmUpMs) this.#totals.push(now - arrivedAt);
    }
    worker.running = worker.running.filter(({ leftMs }) => leftMs > doneMs);
    this.#lastEnd = Math.max(this.#lastEnd, now);
    this.#foreseeEnd(worker);
    if (worker.state === 'draining' && worker.running.length === 0) this.#remove(worker);
    this.#offer(worker);
    this.#dispatch();
  }
}

/** A queue whose `shift` costs the same however long it is. */
class Fifo<T> {
  #items: T[] = [];
  #head = 0;

  get length(): number {
    return this.#items.length - this.#head;
  }

  push(item: T): void {
    this.#items.push(item);
  }

  shift(): T | undefined {
    if (this.length === 0) return undefined;
    const item = this.#items[this.#head];
    this.#head += 1;
    if (this.#head > 1024 && this.#head * 2 > this.#items.length) {
      this.#items = this.#items.slice(this.#head);
      this.#head = 0;
    }
    return item;
  }
}
