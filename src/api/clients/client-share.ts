/**
 * What one client may have of what all of them share, so that none keeps the others out. Where no keys tell clients apart,
 * there is nobody to share with.
 */
import type { Config } from '../../config.ts';
import { AppError } from '../../errors.ts';
import type { Client } from './client.ts';
import { ClientTally } from './client-tally.ts';

/** As many clients of bad intent as it takes to have all. */
const clientsForAll = 2;
const retryAfterSeconds = 2;

/**
 * @param least what a client may have in any case
 * @returns how much of `total` a client may have. Infinity without keys: the bound of all is told as what it is
 */
export function shareOf(
  total: number,
  { API_KEYS_FILE }: Pick<Config, 'API_KEYS_FILE'>,
  least = 1,
): number {
  if (API_KEYS_FILE === '') return Number.POSITIVE_INFINITY;
  return Math.max(least, Math.floor(total / clientsForAll));
}

/** @returns how many results on their way, and how many streams of events, a client may have */
export const streamsOf = ({
  API_KEYS_FILE,
  STREAMS_PER_CLIENT,
}: Pick<Config, 'API_KEYS_FILE' | 'STREAMS_PER_CLIENT'>): number =>
  API_KEYS_FILE === '' ? Number.POSITIVE_INFINITY : STREAMS_PER_CLIENT;

export class ClientShare {
  readonly #most: number;
  readonly #things: string;
  readonly #taken = new ClientTally();

  /**
   * @param most of one client
   * @param things what is counted, as in "This client has 8 …"
   */
  constructor(most: number, things: string) {
    this.#most = most;
    this.#things = things;
  }

  /** @throws too_much_at_once when the client cannot have so much more now */
  check(client: Client, more: number): void {
    const taken = this.#taken.of(client);
    if (taken + more <= this.#most) return;
    throw new AppError(
      'too_much_at_once',
      `This client has ${taken} ${this.#things}, and may have ${this.#most} at a time. Let some of them end, then try again.`,
      { retryAfterSeconds },
    );
  }

  /** @throws too_much_at_once */
  take(client: Client, more = 1): void {
    this.check(client, more);
    this.#taken.add(client, more);
  }

  giveBack(client: Client, some = 1): void {
    this.#taken.add(client, -some);
  }
}
