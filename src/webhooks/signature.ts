/**
 * Signatures by the Standard Webhooks specification (github.com/standard-webhooks): HMAC-SHA256 over
 * `id.timestamp.body`, one for each secret, so that a secret can be changed without a moment in which a
 * receiver knows none of them.
 */
import { createHmac } from 'node:crypto';

const prefix = 'whsec_';
const base64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** What WEBHOOK_SECRET looks like; part of the setting's fault message. */
export const secretFormat =
  'one or more secrets, separated by commas, each whsec_ and the base64 of 24 to 64 bytes';

/** @returns the key, or undefined when `secret` is not of the form that `secretFormat` names */
export function parseSecret(secret: string): Buffer | undefined {
  const encoded = secret.startsWith(prefix) ? secret.slice(prefix.length) : '';
  if (!base64.test(encoded)) return undefined;
  const key = Buffer.from(encoded, 'base64');
  return key.length >= 24 && key.length <= 64 ? key : undefined;
}

/** The reverse of `parseSecret`. */
export const formatSecret = (key: Buffer): string => prefix + key.toString('base64');

/**
 * @param keys newest first
 * @param id the same for every attempt of one event
 * @param timestampSeconds of this attempt, since the epoch
 */
export function webhookHeaders(
  keys: readonly Buffer[],
  id: string,
  timestampSeconds: number,
  body: string,
): Record<string, string> {
  const signatures = keys.map((key) => {
    const mac = createHmac('sha256', key).update(`${id}.${timestampSeconds}.${body}`);
    return `v1,${mac.digest('base64')}`;
  });
  return {
    'webhook-id': id,
    'webhook-timestamp': String(timestampSeconds),
    'webhook-signature': signatures.join(' '),
  };
}
