/**
 * Fetches the images that requests name by URL: so many at once, a share of them for one client, each for so long, none
 * for a client that has gone.
 */
import type { FastifyReply } from 'fastify';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';
import { metrics } from '../metrics.ts';
import { AddressPolicy } from '../net/address-policy.ts';
import { type ByteAccount, fetchImage } from '../net/fetch-image.ts';
import { ClientShare, shareOf } from './clients/client-share.ts';
import { whileConnected } from './while-connected.ts';

type Settings = Pick<
  Config,
  | 'API_KEYS_FILE'
  | 'IMAGE_URL_ALLOWED_HOSTS'
  | 'IMAGE_URL_TIMEOUT_SECONDS'
  | 'IMAGE_URLS_IN_FLIGHT'
  | 'MAX_UPLOAD_BYTES'
>;

/** A fetch takes a second or so, unless its host is slow. */
const retryAfterSeconds = 2;

export class ImageFetches {
  readonly #config: Settings;
  readonly #policy: AddressPolicy;
  readonly #share: ClientShare;
  #inFlight = 0;

  constructor(config: Settings) {
    this.#config = config;
    this.#policy = new AddressPolicy(config.IMAGE_URL_ALLOWED_HOSTS);
    const ofOne = shareOf(config.IMAGE_URLS_IN_FLIGHT, config);
    this.#share = new ClientShare(ofOne, 'images being fetched by URL');
  }

  /**
   * @param reply when its connection closes, the fetch ends
   * @param account counts the bytes as they come
   * @returns a function that throws too_many_fetches, too_much_at_once and what `fetchImage` throws
   */
  for(reply: FastifyReply, account: ByteAccount): (url: string) => Promise<Buffer> {
    const { client } = reply.request;
    return async (url) => {
      this.#share.check(client, 1);
      if (this.#inFlight >= this.#config.IMAGE_URLS_IN_FLIGHT) {
        throw new AppError(
          'too_many_fetches',
          `${this.#inFlight} images are being fetched by URL already. Try again in a moment, or upload the image instead.`,
          { retryAfterSeconds },
        );
      }
      this.#share.take(client);
      this.#count(1);
      try {
        return await this.#fetch(url, reply, account);
      } finally {
        this.#share.giveBack(client);
        this.#count(-1);
      }
    };
  }

  #fetch(url: string, reply: FastifyReply, account: ByteAccount): Promise<Buffer> {
    return whileConnected(reply.raw, (signal) =>
      fetchImage(url, {
        policy: this.#policy,
        maxBytes: this.#config.MAX_UPLOAD_BYTES,
        timeoutMs: this.#config.IMAGE_URL_TIMEOUT_SECONDS * 1000,
        signal,
        account,
      }),
    );
  }

  #count(by: 1 | -1): void {
    this.#inFlight += by;
    metrics.imageFetches.set(this.#inFlight);
  }
}
