/** Where the pipeline keeps its tensors: in the object store, under keys of the job that had the upload. */
import { inputKey, type KeptObject, tensorKeys } from '../../jobs/job.ts';
import type { KeptTensors, TensorName } from '../../pipeline/kept-tensors.ts';
import type { JobStore } from './run-store.ts';

export interface ObjectKeeperOptions {
  store: JobStore;
  /** Id of the job that had the upload. */
  owner: string;
  /** True when that is the job itself; else it may be deleted while this one runs. */
  isOwn: boolean;
  /** When tensors end in the store, epoch ms. They are written before the result is there, and must outlive it. */
  tensorsExpireAt: number;
  maxBytes: number;
}

export class ObjectKeeper implements KeptTensors {
  /** Bytes of what was written or found, by storage key. */
  readonly #objects = new Map<string, number>();
  /** None rejects. */
  readonly #writes: Promise<void>[] = [];
  readonly maxBytes: number;
  readonly #options: ObjectKeeperOptions;
  readonly #keys: Record<TensorName, string>;

  constructor(options: ObjectKeeperOptions) {
    this.#options = options;
    this.#keys = tensorKeys(options.owner);
    this.maxBytes = options.maxBytes;
  }

  /**
   * Only of another job: what an attempt of this one left when it was killed is rounded to float16, and the same job
   * gives the same bytes however often it runs.
   */
  async read(name: TensorName): Promise<Uint8Array | undefined> {
    if (this.#options.isOwn) return undefined;
    const key = this.#keys[name];
    const bytes = await this.#options.store.get(key).catch(() => undefined);
    if (!bytes) return undefined;
    this.note(key, bytes.byteLength);
    return bytes;
  }

  write(name: TensorName, bytes: Uint8Array): void {
    this.#writes.push(this.#writeTensor(this.#keys[name], bytes));
  }

  /** Resolves when what the pipeline wrote is in the store, or could not be put there. */
  async written(): Promise<void> {
    await Promise.all(this.#writes);
  }

  async #writeTensor(key: string, bytes: Uint8Array): Promise<void> {
    const { store, owner, isOwn, tensorsExpireAt } = this.#options;
    // Nothing may appear again of a job that was deleted.
    if (!isOwn && !(await store.has(inputKey(owner)).catch(() => false))) return;
    if (await this.#put(key, bytes, tensorsExpireAt)) this.note(key, bytes.byteLength);
  }

  /** An upload lives until `expiresAt` from now on, epoch ms, if it is still there. */
  async keepUpload(key: string, bytes: number, expiresAt: number): Promise<void> {
    const ttlSeconds = (expiresAt - Date.now()) / 1000;
    // Where the store fails, the upload is there as it was.
    const isThere = await this.#options.store.expire(key, ttlSeconds).catch(() => true);
    if (isThere) this.note(key, bytes);
  }

  /** It is there and was used. */
  note(key: string, bytes: number): void {
    this.#objects.set(key, bytes);
  }

  /** What was written or found. @param expiresAt when it ends, epoch ms */
  objects(expiresAt: number): KeptObject[] {
    return [...this.#objects].map(([key, bytes]) => ({ key, bytes, expiresAt }));
  }

  /** A store that is full or away costs later runs their short cut, not this one its result. */
  async #put(key: string, bytes: Uint8Array, expiresAt: number): Promise<boolean> {
    const ttlSeconds = (expiresAt - Date.now()) / 1000;
    if (ttlSeconds <= 0) return false;
    return this.#options.store.put(key, bytes, ttlSeconds).then(
      () => true,
      () => false,
    );
  }
}
