/** Who can verify an event, by the verifier that receivers use. */
import { randomBytes } from 'node:crypto';
import { Webhook } from 'standardwebhooks';
import { expect, test } from 'vitest';
import { parseSecret, webhookHeaders } from '../../../src/webhooks/signature.ts';
import { clientSecrets, signingKeys } from '../../../src/webhooks/signing-keys.ts';

const newSecret = (): string => `whsec_${randomBytes(32).toString('base64')}`;
const [secret, former] = [newSecret(), newSecret()];
type Settings = Parameters<typeof signingKeys>[0];

const settings: Settings = {
  API_KEYS_FILE: 'keys.json',
  WEBHOOK_SECRET: [secret, former],
  WEBHOOK_SIGN_WITH: 'client',
};
const body = '{"type":"upscale.succeeded"}';

/** @returns whether an event of a client is taken for genuine by who has the secret */
function verifies(verifier: string, client: string, config = settings): boolean {
  const at = Math.floor(Date.now() / 1000);
  const headers = webhookHeaders(signingKeys(config)(client), 'job-1', at, body);
  try {
    new Webhook(verifier).verify(body, headers);
    return true;
  } catch {
    return false;
  }
}

test('an event is verified by its own client, with the newest and the former secret, and by nobody else', () => {
  const secrets = clientSecrets(settings, 'shop');
  expect(secrets).toHaveLength(2);
  for (const own of secrets) {
    expect(parseSecret(own)).toHaveLength(32);
    expect(verifies(own, 'shop')).toBe(true);
    expect(verifies(own, 'rival')).toBe(false);
  }
  for (const shared of [secret, former]) expect(verifies(shared, 'shop')).toBe(false);
});

test('the secret of a client stays the same while that of the service does', () => {
  const fixed = { WEBHOOK_SECRET: [`whsec_${Buffer.alloc(32, 7).toString('base64')}`] };
  // Receivers have it: another derivation would end every delivery.
  expect(clientSecrets(fixed, 'shop')).toEqual([
    'whsec_c+4jH2FQd+ETMtsfjJyTvtPxGrW7TDBfZ3he2wR+lrE=',
  ]);
});

test('without API keys events are signed with WEBHOOK_SECRET itself', () => {
  const config = { ...settings, API_KEYS_FILE: '' };
  for (const shared of [secret, former]) expect(verifies(shared, 'anyone', config)).toBe(true);
});

test('while receivers change over, both verify', () => {
  const config: Settings = { ...settings, WEBHOOK_SIGN_WITH: 'both' };
  for (const one of [...clientSecrets(settings, 'shop'), secret, former]) {
    expect(verifies(one, 'shop', config)).toBe(true);
  }
});
