/**
 * Room for a delivery: at its host and, where API keys tell clients apart, for its client. Each client has a host's room
 * to itself: with a shared one a client could fill that of another's receiver, by a port of it that answers nobody.
 */
import type { Config } from '../config.ts';
import type { DeliveryData } from '../jobs/webhook.ts';
import { Slots } from './slots.ts';

/** A client has as many names for its hosts as it likes. So many clients of bad intent it takes to have all slots. */
const clientsForAll = 4;

type Settings = Pick<
  Config,
  'API_KEYS_FILE' | 'WEBHOOKS_IN_FLIGHT' | 'WEBHOOKS_IN_FLIGHT_PER_HOST'
>;

/** Whatever the port, and with or without the dot of the root. */
const hostOf = (url: string): string => new URL(url).hostname.replace(/\.$/, '');

export class DeliverySlots {
  readonly #hosts: Slots;
  readonly #clients: Slots | undefined;

  constructor({ API_KEYS_FILE, WEBHOOKS_IN_FLIGHT, WEBHOOKS_IN_FLIGHT_PER_HOST }: Settings) {
    this.#hosts = new Slots(WEBHOOKS_IN_FLIGHT_PER_HOST);
    if (API_KEYS_FILE === '') return;
    this.#clients = new Slots(Math.max(1, Math.floor(WEBHOOKS_IN_FLIGHT / clientsForAll)));
  }

  /**
   * @param client absent in deliveries of older versions
   * @returns what gives the slots back, or after how many milliseconds to ask again
   */
  take({
    url,
    client = '',
  }: Pick<DeliveryData, 'url' | 'client'>): { release: () => void } | { putOffMs: number } {
    const host = this.#clients ? `${hostOf(url)} ${client}` : hostOf(url);
    const ofHost = this.#hosts.take(host);
    if (!ofHost) return { putOffMs: this.#hosts.putOffMs(host) };
    if (!this.#clients) return { release: ofHost };
    const ofClient = this.#clients.take(client);
    if (!ofClient) {
      ofHost();
      return { putOffMs: this.#clients.putOffMs(client) };
    }
    const release = (): void => {
      ofHost();
      ofClient();
    };
    return { release };
  }
}
