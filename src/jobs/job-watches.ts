/**
 * Jobs that somebody watches. However many watch a job, a change of it is looked up once and told to all; and
 * however many jobs wait, their places in the queue are read together, at most once a second.
 */
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
  unsubscribe: () => void;
  /** As last told. `known` is false until the first look has succeeded. */
  job: JobSnapshot | undefined;
  known: boolean;
  looking: boolean;
  lookAgain: boolean;
  lookedAt: number;
}

const tickMs = 1000;
/** Events can be lost (a trimmed stream, a Redis that restarts): a watched job is looked at this often anyway. */
const lookAnywayMs = 30_000;

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
    const watched = this.#watched.get(id) ?? this.#start(id);
    watched.listeners.add(listener);
    if (watched.known) listener(watched.job);
    else void this.#look(watched);
    this.#timer ??= setInterval(() => this.#tick(), tickMs).unref();
    return () => {
      watched.listeners.delete(listener);
      if (watched.listeners.size === 0) this.#stop(watched);
    };
  }

  close(): void {
    for (const unsubscribe of this.#unsubscribe) unsubscribe();
    for (const watched of this.#watched.values()) this.#stop(watched);
  }

  #start(id: string): Watched {
    const watched: Watched = {
      id,
      listeners: new Set(),
      unsubscribe: () => {},
      job: undefined,
      known: false,
      looking: false,
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
    if (progress && job?.status === 'processing' && !watched.looking) {
      this.#tell(watched, { ...job, progress });
    } else {
      void this.#look(watched);
    }
  }

  async #look(watched: Watched): Promise<void> {
    watched.lookAgain = true;
    if (watched.looking) return;
    watched.looking = true;
    try {
      while (watched.lookAgain && watched.listeners.size > 0) {
        watched.lookAgain = false;
        watched.lookedAt = Date.now();
        this.#tell(watched, await this.#source.look(watched.id));
      }
    } catch {
      // Redis is away: its return, or the next tick that is due, looks again.
    } finally {
      watched.looking = false;
    }
  }

  #tell(watched: Watched, job: JobSnapshot | undefined): void {
    watched.job = job;
    watched.known = true;
    for (const listener of [...watched.listeners]) listener(job);
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
    const queued = [...this.#watched.values()].filter(({ job }) => job?.status === 'queued');
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
