/**
 * Bounds the memory that uploads take: so many bytes over all requests, however slowly each arrives, and a share of them
 * over those of one client.
 */
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { metrics } from '../metrics.ts';
import type { Client } from './clients/client.ts';
import { ClientShare, shareOf } from './clients/client-share.ts';
import { ClientTally } from './clients/client-tally.ts';
import { formOverheadBytes } from './upload-form.ts';

type Settings = Pick<Config, 'MAX_UPLOAD_BYTES' | 'UPLOADS_IN_FLIGHT_MEGABYTES' | 'API_KEYS_FILE'>;

/** An upload takes a second or so, unless its connection is slow. */
const retryAfterSeconds = 2;
const megabyte = 1_000_000;

/** What one upload may take of the budget. `bytes` are of the whole upload, those that it holds already included. */
export interface UploadLoan {
  /**
   * For what an upload declares: sets nothing aside, so that a client which sends nothing keeps nobody out.
   * @throws too_many_uploads when there is no room for it now; too_much_at_once when the client has its share already
   */
  look(bytes: number): void;
  /**
   * Sets aside what has come.
   * @throws too_many_uploads | too_much_at_once
   */
  hold(bytes: number): void;
}

export class UploadBudget {
  readonly #maxBytes: number;
  #heldBytes = 0;
  readonly #share: ClientShare;
  readonly #uploads = new ClientTally();

  constructor(settings: Settings) {
    // The largest upload that is allowed must be possible when there is no other.
    const largest = settings.MAX_UPLOAD_BYTES + formOverheadBytes;
    this.#maxBytes = Math.max(settings.UPLOADS_IN_FLIGHT_MEGABYTES * megabyte, largest);
    const ofOne = shareOf(this.#maxBytes, settings, largest);
    this.#share = new ClientShare(ofOne, 'bytes of uploads under way');
  }

  /**
   * @param client whose upload it is. So many of its uploads may be under way as it may have jobs: each is to become one
   * @param work reads an upload and passes it on. When it has ended, however it does, what it holds is given back
   * @returns what `work` returns
   * @throws too_many_jobs
   */
  async lend<T>(client: Client, work: (loan: UploadLoan) => Promise<T>): Promise<T> {
    let held = 0;
    const missing = (bytes: number): number => Math.max(0, bytes - held);
    const look = (bytes: number): void => {
      this.#share.check(client, missing(bytes));
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
      this.#share.take(client, more);
      this.#count(more);
    };
    this.#checkUploads(client);
    this.#uploads.add(client, 1);
    try {
      return await work({ look, hold });
    } finally {
      this.#uploads.add(client, -1);
      this.#share.giveBack(client, held);
      this.#count(-held);
    }
  }

  #checkUploads(client: Client): void {
    const uploads = this.#uploads.of(client);
    if (client.concurrentJobs === 0 || uploads < client.concurrentJobs) return;
    throw new AppError(
      'too_many_jobs',
      `This client has ${uploads} uploads under way, and may have ${client.concurrentJobs} jobs that have not ended. Wait for one of them, then send this one again.`,
      { retryAfterSeconds },
    );
  }

  #count(by: number): void {
    this.#heldBytes += by;
    metrics.uploadBytes.set(this.#heldBytes);
  }
}
