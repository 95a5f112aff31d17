/**
 * What events are signed with. Where API keys tell clients apart each has a secret of its own, derived from that of the
 * service: with a shared one a client could have the service sign what it likes for the receiver of another, and sign
 * itself whatever it likes for all. Who knows that of the service can make all others: no receiver needs it any more.
 */
import { createHmac } from 'node:crypto';
import type { Config } from '../config.ts';
import { formatSecret, parseSecret } from './signature.ts';

type Settings = Pick<Config, 'API_KEYS_FILE' | 'WEBHOOK_SECRET' | 'WEBHOOK_SIGN_WITH'>;

/** Domain separation: nothing else is ever derived under this name. */
const purpose = 'webhook/';

const clientKey = (key: Buffer, client: string): Buffer =>
  createHmac('sha256', key)
    .update(purpose + client)
    .digest();

const serviceKeys = ({ WEBHOOK_SECRET }: Pick<Config, 'WEBHOOK_SECRET'>): Buffer[] =>
  WEBHOOK_SECRET.flatMap((secret) => parseSecret(secret) ?? []);

/** @returns by the name of an API key's client, the keys that its events are signed with, newest first */
export function signingKeys(settings: Settings): (client: string) => readonly Buffer[] {
  const shared = serviceKeys(settings);
  if (settings.API_KEYS_FILE === '') return () => shared;
  const alsoShared = settings.WEBHOOK_SIGN_WITH === 'both' ? shared : [];
  return (client) => [...shared.map((key) => clientKey(key, client)), ...alsoShared];
}

/** @returns one for each of WEBHOOK_SECRET, newest first, in its form */
export const clientSecrets = (settings: Pick<Config, 'WEBHOOK_SECRET'>, client: string): string[] =>
  serviceKeys(settings).map((key) => formatSecret(clientKey(key, client)));
