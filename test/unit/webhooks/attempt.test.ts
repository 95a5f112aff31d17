/** Where a delivery may go is decided by the address that its host has at that moment. Nothing here leaves the process. */
import { randomBytes } from 'node:crypto';
import { Socket } from 'node:net';
import tls, { type ConnectionOptions } from 'node:tls';
import { afterEach, expect, test, vi } from 'vitest';
import { AddressPolicy } from '../../../src/net/address-policy.ts';
import type { Address, Resolve } from '../../../src/net/resolve.ts';
import { attemptDelivery } from '../../../src/webhooks/attempt.ts';

afterEach(() => vi.restoreAllMocks());

const v4 = (address: string): Address => ({ address, family: 4 });
const v6 = (address: string): Address => ({ address, family: 6 });
const publicAddress = v4('93.184.215.14');

/** Connections that were begun, instead of making them: each is refused at once. */
function connectionsRefused(): ConnectionOptions[] {
  const begun: ConnectionOptions[] = [];
  // undici's way to a TLS connection.
  vi.spyOn(tls, 'connect').mockImplementation((options) => {
    begun.push(options as ConnectionOptions);
    const socket = new tls.TLSSocket(new Socket());
    return socket.destroy(Object.assign(new Error('refused'), { code: 'ECONNREFUSED' }));
  });
  return begun;
}

/** An attempt on a host whose name, port and scheme are above suspicion, with an empty allow-list. */
const attempt = (resolve: Resolve) =>
  attemptDelivery(
    'https://hooks.example/upscale',
    { id: 'job-1', body: '{}' },
    {
      keys: [randomBytes(32)],
      policy: new AddressPolicy([]),
      timeoutMs: 20_000,
      resolve,
    },
  );
const attemptAt = (...addresses: Address[]) => attempt(async () => addresses);

test.each([
  ['loopback', [v4('127.0.0.1')]],
  ['loopback of IPv6', [v6('::1')]],
  ['loopback, written as IPv6', [v6('::ffff:127.0.0.1')]],
  ['a private network', [v4('10.0.0.1')]],
  ['the metadata service of a cloud', [v4('169.254.169.254')]],
  ['a public address and loopback', [publicAddress, v4('127.0.0.1')]],
])('a name that leads to %s is refused before a connection', async (_name, addresses) => {
  const connections = connectionsRefused();
  expect(await attemptAt(...addresses)).toEqual({
    kind: 'failed',
    outcome: 'refused_url',
    fault: expect.stringContaining('is not at a public address'),
    final: false,
  });
  expect(connections).toEqual([]);
});

test('the same name at a public address is connected to, there and nowhere else', async () => {
  const connections = connectionsRefused();
  expect(await attemptAt(publicAddress)).toMatchObject({
    outcome: 'unreachable',
    fault: 'The connection failed.',
  });
  expect(connections).toMatchObject([{ host: 'hooks.example', port: 443 }]);
  const found = await new Promise((resolve) => {
    connections[0]?.lookup?.('hooks.example', { all: true }, (_error, addresses) =>
      resolve(addresses),
    );
  });
  expect(found).toEqual([publicAddress]);
});

test('a look-up that failed for now is no refusal of the URL', async () => {
  const connections = connectionsRefused();
  const away = Object.assign(new Error('queryA ETIMEOUT'), { code: 'ETIMEOUT' });
  expect(await attempt(() => Promise.reject(away))).toMatchObject({
    outcome: 'unreachable',
    fault: 'The connection failed.',
  });
  expect(connections).toEqual([]);
});
