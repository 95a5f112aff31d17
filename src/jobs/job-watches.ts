/**
 * Jobs that somebody watches or waits for. However many do, a change of a job is looked up once and told to all; and
 * however many jobs wait, their places in the queue are read together, at most once a second.
 */
import { within } from '../waits.ts';
import type { JobChange, JobEvents } from './job-events.ts';
import { isFinal, type JobSnapshot } from './job-snapshot.ts';

/** @param job undefined: there is no such job, or no longer */
export type WatchListener = (job: JobSnapshot | undefined) => void;

interface WatchSource {
  events: Pick<JobEvents, 'subscribe' | 'onEvery'>;
  look: (id: string) => Promise<JobSnapshot | undefined>;
  /** Ids of all waiting jobs, the next one first. */
  order: () => Promise<string[]>;
}

interface Watched {
  readonly id: string;
  readonly listeners: Set<WatchListener>;
  /** Those of them that are not told of its place in the queue. */
  readonly waiting: Set<WatchListener>;
  unsubscribe: () => void;
  /** As last told. Absent: it has not been seen yet, or is not there. */
  job: JobSnapshot | undefined;
  /** Ends when all that was worth a look has been looked at. Never rejects. */
  looking: Promise<void> | undefined;
  lookAgain: boolean;
  /** Epoch ms. */
  lookedAt: number;
}

const tickMs = 1000;
/** Events can be lost (a trimmed stream, a Redis that restarts): a watched job is looked at this often anyway. */
const lookAnywayMs = 10_000;
/** At the end of a wait. Redis may be slow, or away. */
const lastLookMs = 1000;

export class JobWatches {
  readonly #source: WatchSource;
  readonly #watched = new Map<string, Watched>();
  readonly #unsubscribe: (() => void)[];
  #timer: NodeJS.Timeout | undefined;
  #queueChanged = false;
  #ordering = false;

  constructor(source: WatchSource) {
    this.#source = source;
    this.#unsubscribe = [
      source.events.onEvery('queue', () => {
        this.#queueChanged = true;
      }),
      source.events.onEvery('reconnected', () => {
        for (const watched of this.#watched.values()) void this.#look(watched);
      }),
    ];
  }

  /** See `UpscaleQueue.watch`. */
  watch(id: string, listener: WatchListener): () => void {
    const watched = this.#join(id, listener);
    return () => this.#leave(watched, listener);
  }

  /** See `UpscaleQueue.waitFor`. */
  waitFor(
    accepted: JobSnapshot,
    timeoutMs: number,
    signal?: AbortSignal,
  ): Promise<JobSnapshot | undefined> {
    if (isFinal(accepted.status) || signal?.aborted) return Promise.resolve(accepted);
    return new Promise((resolve) => {
      let last: JobSnapshot | undefined = accepted;
      const listener: WatchListener = (job) => {
        last = job;
        if (!job || isFinal(job.status)) end();
      };
      const watched = this.#join(accepted.id, listener);
      watched.waiting.add(listener);
      // One more look for its place in the queue, of which a wait is not told.
      const look = () => void within(this.#look(watched), lastLookMs).then(end);
      const timer = setTimeout(look, timeoutMs);
      const end = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', end);
        this.#leave(watched, listener);
        resolve(last);
      };
      signal?.addEventListener('abort', end);
    });
  }

  close(): void {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
    for (const watched of this.#watched.values()) this.#stop(watched);
  }

  #join(id: string, listener: WatchListener): Watched {
    const watched = this.#watched.get(id) ?? this.#start(id);
    watched.listeners.add(listener);
    this.#timer ??= setInterval(() => this.#tick(), tickMs).unref();
    // Another one may have come under its id since.
    if (watched.job && isFinal(watched.job.status)) watched.job = undefined;
    if (watched.job) listener(watched.job);
    if (!watched.job || watched.looking) void this.#look(watched);
    return watched;
  }

  #leave(watched: Watched, listener: WatchListener): void {
    watched.listeners.delete(listener);
    watched.waiting.delete(listener);
    if (watched.listeners.size === 0) this.#stop(watched);
  }

  #start(id: string): Watched {
    const watched: Watched = {
      id,
      listeners: new Set(),
      waiting: new Set(),
      unsubscribe: () => {},
      job: undefined,
      looking: undefined,
      lookAgain: false,
      lookedAt: 0,
    };
    watched.unsubscribe = this.#source.events.subscribe(id, (change) =>
      this.#onChange(watched, change),
    );
    this.#watched.set(id, watched);
    return watched;
  }

  #stop(watched: Watched): void {
    watched.unsubscribe();
    if (this.#watched.get(watched.id) === watched) this.#watched.delete(watched.id);
    if (this.#watched.size > 0) return;
    clearInterval(this.#timer);
    this.#timer = undefined;
  }

  /** Progress comes with its event; anything else is worth a look. */
  #onChange(watched: Watched, { progress }: JobChange): void {
    const { job } = watched;
    if (!progress || job?.status !== 'processing') void this.#look(watched);
    // During a look it is left to the next one: looks that take long would else never end while a job runs.
    else if (!watched.looking) this.#tell(watched, { ...job, progress });
  }

  #look(watched: Watched): Promise<void> {
    watched.lookAgain = true;
    watched.looking ??= this.#lookUntilDone(watched);
    return watched.looking;
  }

  async #lookUntilDone(watched: Watched): Promise<void> {
    try {
      while (watched.lookAgain && watched.listeners.size > 0) {
        watched.lookAgain = false;
        watched.lookedAt = Date.now();
        // Whoever comes during a look is told by the next one: this one may be of what was under the id before his job.
        const listeners = [...watched.listeners];
        this.#tell(watched, await this.#source.look(watched.id), listeners);
      }
    } catch {
      // Redis is away: the next tick looks again.
      watched.lookedAt = 0;
    } finally {
      watched.looking = undefined;
    }
  }

  #tell(watched: Watched, job: JobSnapshot | undefined, to = [...watched.listeners]): void {
    watched.job = job;
    for (const listener of to) if (watched.listeners.has(listener)) listener(job);
  }

  #tick(): void {
    const due = Date.now() - lookAnywayMs;
    for (const watched of this.#watched.values()) {
      const ended = watched.job && isFinal(watched.job.status);
      if (watched.lookedAt < due && !ended) void this.#look(watched);
    }
    if (this.#queueChanged && !this.#ordering) void this.#tellPositions();
  }

  async #tellPositions(): Promise<void> {
    const queued = [...this.#watched.values()].filter(
      ({ job, listeners, waiting }) => job?.status === 'queued' && listeners.size > waiting.size,
    );
    this.#queueChanged = false;
    if (queued.length === 0) return;
    this.#ordering = true;
    try {
      const order = await this.#source.order();
      const positions = new Map(order.map((id, position) => [id, position]));
      for (const watched of queued) {
        const { job, id } = watched;
        const queuePosition = positions.get(id);
        // Not in the list: it is being taken, and its own event tells.
        if (job?.status !== 'queued' || queuePosition === undefined) continue;
        if (job.queuePosition !== queuePosition) this.#tell(watched, { ...job, queuePosition });
      }
    } catch {
      // Redis is away: positions are told when it is back.
      this.#queueChanged = true;
    } finally {
      this.#ordering = false;
    }
  }
}
