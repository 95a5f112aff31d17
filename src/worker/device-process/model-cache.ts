/**
 * Which models are in memory: as many as fit into a budget, loaded on first use. When the next one would not
 * fit, those that nobody uses go, the least recently used first; one in use stays until its jobs are done.
 */
import { Fifo } from '../../fifo.ts';
import { unlessAborted } from '../../waits.ts';

export interface ModelLoader<M> {
  /**
   * Bytes that it will take, as far as can be said before it is loaded.
   * @throws when it is too large for the budget, or unknown
   */
  expect(name: string): Promise<number> | number;
  /** Loads it and says how many bytes it takes, which may be more than expected. */
  load(name: string): Promise<{ model: M; bytes: number }>;
  unload(name: string, model: M): Promise<void>;
}

interface Entry<M> {
  readonly model: M;
  readonly bytes: number;
  /** Jobs that run on it now. */
  users: number;
}

export class ModelCache<M> {
  readonly #budgetBytes: number;
  readonly #loader: ModelLoader<M>;
  /** The least recently used first. */
  readonly #entries = new Map<string, Entry<M>>();
  /** What each one took when it was last loaded. */
  readonly #measured = new Map<string, number>();
  /** Loading is one at a time; and who waits for room is not overtaken by those who need none. */
  readonly #turns = new Fifo();
  #onRelease: () => void = () => undefined;

  constructor(budgetBytes: number, loader: ModelLoader<M>) {
    this.#budgetBytes = budgetBytes;
    this.#loader = loader;
  }

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  /** Bytes that it took when it was last loaded; 0 when it never was. */
  measured(name: string): number {
    return this.#measured.get(name) ?? 0;
  }

  /**
   * Runs `work` on a model, which stays loaded until `work` has settled.
   * @throws what the loader throws, the reason of the signal while it waits, or what `work` throws
   */
  async use<T>(
    name: string,
    signal: AbortSignal | undefined,
    work: (model: M) => Promise<T> | T,
  ): Promise<T> {
    const entry = await this.#turns.take(signal, () => this.#obtain(name, signal));
    try {
      return await work(entry.model);
    } finally {
      entry.users -= 1;
      this.#onRelease();
    }
  }

  /** Counts the user in the same turn, so that nobody unloads it in between. */
  async #obtain(name: string, signal: AbortSignal | undefined): Promise<Entry<M>> {
    const entry = this.#entries.get(name) ?? (await this.#load(name, signal));
    this.#entries.delete(name);
    this.#entries.set(name, entry);
    entry.users += 1;
    return entry;
  }

  async #load(name: string, signal: AbortSignal | undefined): Promise<Entry<M>> {
    const expected = await this.#loader.expect(name);
    await this.#makeRoom(Math.max(expected, this.measured(name)), signal);
    const { model, bytes } = await this.#loader.load(name);
    this.#measured.set(name, bytes);
    return { model, bytes, users: 0 };
  }

  /** One that is larger than expected is loaded all the same, alone. */
  async #makeRoom(bytes: number, signal: AbortSignal | undefined): Promise<void> {
    while (this.#entries.size > 0 && this.#usedBytes() + bytes > this.#budgetBytes) {
      const idle = [...this.#entries].find(([, { users }]) => users === 0);
      if (idle) await this.#unload(...idle);
      else await unlessAborted(this.#nextRelease(), signal);
    }
  }

  async #unload(name: string, { model }: Entry<M>): Promise<void> {
    this.#entries.delete(name);
    await this.#loader.unload(name, model);
  }

  #nextRelease(): Promise<void> {
    return new Promise((resolve) => {
      this.#onRelease = resolve;
    });
  }

  #usedBytes(): number {
    return [...this.#entries.values()].reduce((sum, { bytes }) => sum + bytes, 0);
  }
}
