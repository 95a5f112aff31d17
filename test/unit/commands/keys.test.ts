/** `keys webhook-secret`; what it prints, test/e2e/webhooks.test.ts gives to a receiver. */
import { expect, test } from 'vitest';
import { printWebhookSecret } from '../../../src/commands/keys.ts';
import { loadConfig } from '../../../src/config.ts';

const WEBHOOK_SECRET = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;

test.each([
  ['WEBHOOK_SECRET, which is not set', { API_KEYS_FILE: 'keys.json' }],
  ['API_KEYS_FILE is not set', { WEBHOOK_SECRET }],
])('keys webhook-secret needs the settings of the service: %s', async (fault, settings) => {
  const printed = printWebhookSecret('shop', loadConfig(settings));
  await expect(printed).rejects.toMatchObject({ code: 'invalid_config' });
  await expect(printed).rejects.toThrow(fault);
});
