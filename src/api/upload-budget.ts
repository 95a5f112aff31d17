/** Bounds the memory that uploads take: so many bytes over all requests, however slowly each arrives. */
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { metrics } from '../metrics.ts';
import { formOverheadBytes } from './upload-form.ts';

type Settings = Pick<Config, 'MAX_UPLOAD_BYTES' | 'UPLOADS_IN_FLIGHT_MEGABYTES'>;

/** An upload takes a second or so, unless its connection is slow. */
const retryAfterSeconds = 2;
const megabyte = 1_000_000;

/** What one upload may take of the budget. `bytes` are of the whole upload, those that it holds already included. */
export interface UploadLoan {
  /**
   * For what an upload declares: sets nothing aside, so that a client which sends nothing keeps nobody out.
   * @throws too_many_uploads when there is no room for it now
   */
  look(bytes: number): void;
  /**
   * Sets aside what has come.
   * @throws too_many_uploads
   */
  hold(bytes: number): void;
}

export class UploadBudget {
  readonly #maxBytes: number;
  #heldBytes = 0;

  constructor({ MAX_UPLOAD_BYTES, UPLOADS_IN_FLIGHT_MEGABYTES }: Settings) {
    // The largest upload that is allowed must be possible when there is no other.
    this.#maxBytes = Math.max(
      UPLOADS_IN_FLIGHT_MEGABYTES * megabyte,
      MAX_UPLOAD_BYTES + formOverheadBytes,
    );
  }

  /**
   * @param work reads an upload and passes it on. When it has ended, however it does, what it holds is given back
   * @returns what `work` returns
   */
  async lend<T>(work: (loan: UploadLoan) => Promise<T>): Promise<T> {
    let held = 0;
    const missing = (bytes: number): number => Math.max(0, bytes - held);
    const look = (bytes: number): void => {
      if (this.#heldBytes + missing(bytes) > this.#maxBytes) {
        throw new AppError(
          'too_many_uploads',
          `The uploads that are under way hold ${this.#heldBytes} of ${this.#maxBytes} bytes (UPLOADS_IN_FLIGHT_MEGABYTES): there is no room for this one. Try again in a moment.`,
          { retryAfterSeconds },
        );
      }
    };
    const hold = (bytes: number): void => {
      look(bytes);
      const more = missing(bytes);
      held += more;
      this.#count(more);
    };
    try {
      return await work({ look, hold });
    } finally {
      this.#count(-held);
    }
  }

  #count(by: number): void {
    this.#heldBytes += by;
    metrics.uploadBytes.set(this.#heldBytes);
  }
}
