/** A service that asks for no keys is for its own machine only, unless somebody has said otherwise. */
import { BlockList, isIP } from 'node:net';
import type { Config } from '../../config.ts';
import { AppError } from '../../errors.ts';

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

const isLoopback = (host: string): boolean => {
  const family = isIP(host);
  return family === 0 ? host === 'localhost' : loopback.check(host, family === 4 ? 'ipv4' : 'ipv6');
};

/** @throws invalid_config when the service would be open to other machines and nobody has said so */
export function checkOpenAccess(
  config: Pick<Config, 'HOST' | 'API_KEYS_FILE' | 'OPEN_ACCESS'>,
): void {
  if (config.API_KEYS_FILE !== '' || config.OPEN_ACCESS === 'anywhere' || isLoopback(config.HOST)) {
    return;
  }
  throw new AppError(
    'invalid_config',
    `HOST=${config.HOST} is open to other machines, and no keys are asked for. Set API_KEYS_FILE (docs/api-keys.md), or HOST=127.0.0.1, or, behind a proxy or on a network that keeps strangers out, OPEN_ACCESS=anywhere.`,
  );
}
