/** Fetching by URL against hosts that redirect, lie, dribble, never end, or change their address in between. */
import { afterEach, expect, test } from 'vitest';
import { AddressPolicy } from '../../../src/net/address-policy.ts';
import { type FetchImageOptions, fetchImage } from '../../../src/net/fetch-image.ts';
import type { Address } from '../../../src/net/resolve.ts';
import {
  answers,
  answersForEver,
  type Behaviour,
  type Receiver,
  saysNothing,
  startReceiver,
} from '../../support/receiver.ts';

const started: Receiver[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((host) => host.stop()));
});

async function hostThat(behaviour: Behaviour, address = '127.0.0.1'): Promise<Receiver> {
  const host = await startReceiver(behaviour, { host: address });
  started.push(host);
  return host;
}

const listing = (...hosts: (Receiver | string)[]) =>
  new AddressPolicy(
    hosts.map((host) => (typeof host === 'string' ? host : new URL(host.url).host)),
  );

const options = (
  policy: AddressPolicy,
  more: Partial<FetchImageOptions> = {},
): FetchImageOptions => ({ policy, maxBytes: 100_000, timeoutMs: 20_000, ...more });

const code = (name: string) => expect.objectContaining({ code: name });
const v4 = (address: string): Address[] => [{ address, family: 4 }];

test('brings the bytes, and asks for no encoding', async () => {
  const host = await hostThat(answers(200, {}, Buffer.from([1, 2, 3])));
  const bytes = await fetchImage(`${host.url}/a.png?x=1#part`, options(listing(host)));
  expect([...bytes]).toEqual([1, 2, 3]);
  expect(host.received[0]).toMatchObject({ method: 'GET', path: '/a.png?x=1' });
  expect(host.received[0]?.headers).toMatchObject({
    'accept-encoding': 'identity',
    'user-agent': 'pisa-serve',
  });
  expect(await host.openConnections()).toBe(0);
});

test('a listed host is reached under every spelling of its address', async () => {
  const host = await hostThat(answers(200, {}, 'here'));
  for (const name of ['127.1', '0x7f.1', '2130706433', '[::ffff:127.0.0.1]', '[::ffff:7f00:1]']) {
    const bytes = await fetchImage(`http://${name}:${host.port}/`, options(listing(host)));
    expect(bytes.toString()).toBe('here');
  }
});

test('a host that is not listed is never connected to', async () => {
  const host = await hostThat(answers(200, {}, 'x'));
  for (const url of [
    host.url,
    `http://localhost:${host.port}/`,
    `http://2130706433:${host.port}/`,
    `http://0x7f.1:${host.port}/`,
    `http://[::ffff:127.0.0.1]:${host.port}/`,
  ]) {
    await expect(fetchImage(url, options(listing()))).rejects.toThrow(code('url_not_allowed'));
  }
  expect(host.received).toEqual([]);
  expect(host.bytesSent()).toBe(0);
});

test('a name that leads inside is refused, alone or among public addresses', async () => {
  const host = await hostThat(answers(200, {}, 'x'));
  for (const addresses of [
    v4('127.0.0.1'),
    v4('169.254.169.254'),
    [...v4('93.184.215.14'), ...v4('127.0.0.1')],
    [{ address: '::1', family: 6 as const }],
    [{ address: '::ffff:127.0.0.1', family: 6 as const }],
    [],
  ]) {
    await expect(
      fetchImage(
        `http://photos.example:${host.port}/`,
        options(listing(), { resolve: async () => addresses }),
      ),
    ).rejects.toThrow(code('url_not_allowed'));
  }
  await expect(
    fetchImage(
      'http://photos.example/',
      options(listing(), { resolve: () => Promise.reject(new Error('ENOTFOUND')) }),
    ),
  ).rejects.toThrow(code('url_not_allowed'));
  expect(host.received).toEqual([]);
});

test('DNS rebinding: the connection goes to the address that was checked', async () => {
  const host = await hostThat(answers(200, {}, 'checked'), '127.0.0.9');
  const elsewhere = await startReceiver(answers(200, {}, 'rebound'), {
    host: '127.0.0.1',
    port: host.port,
  });
  started.push(elsewhere);
  const replies = [v4('127.0.0.9'), v4('127.0.0.1')];
  let asked = 0;
  const resolve = async (): Promise<Address[]> => replies[asked++] ?? [];
  // By its name this host is 127.0.0.1; the checked answer says otherwise, and only that counts.
  const url = `http://localhost:${host.port}/`;
  const policy = listing(`127.0.0.9:${host.port}`);
  const bytes = await fetchImage(url, options(policy, { resolve }));
  expect(bytes.toString()).toBe('checked');
  expect(asked).toBe(1);
  // The name has changed by now: checked afresh, refused.
  await expect(fetchImage(url, options(policy, { resolve }))).rejects.toThrow(
    code('url_not_allowed'),
  );
  expect(elsewhere.received).toEqual([]);
});

test('a coding that is none is taken in any case', async () => {
  const host = await hostThat(answers(200, { 'content-encoding': 'Identity' }, 'as it is'));
  const bytes = await fetchImage(`${host.url}/`, options(listing(host)));
  expect(bytes.toString()).toBe('as it is');
});

test('three redirects are followed, a fourth is not', async () => {
  let hops = 3;
  const host = await hostThat((request, response) => {
    const step = Number(request.path.slice(1));
    if (step >= hops) return void response.writeHead(200).end('here');
    response.writeHead([301, 302, 307, 308][step] ?? 303, { location: `${step + 1}` }).end();
  });
  const bytes = await fetchImage(`${host.url}/0`, options(listing(host)));
  expect(bytes.toString()).toBe('here');
  hops = 4;
  await expect(fetchImage(`${host.url}/0`, options(listing(host)))).rejects.toThrow(
    code('image_url_failed'),
  );
  expect(host.received.map(({ path }) => path)).toEqual([
    ...['/0', '/1', '/2', '/3'],
    ...['/0', '/1', '/2', '/3'],
  ]);
});

test('each redirect is checked like the first URL', async () => {
  const inside = await hostThat(answers(200, {}, 'secret'));
  for (const location of [
    inside.url,
    `//127.0.0.1:${inside.port}/`,
    `http://2130706433:${inside.port}/`,
    `http://[::ffff:7f00:1]:${inside.port}/`,
    'http://169.254.169.254/latest/meta-data/',
    'file:///etc/passwd',
    'gopher://127.0.0.1:6379/_FLUSHALL',
    'http://user:password@example.com/',
    'http://[::1',
  ]) {
    const host = await hostThat(answers(302, { location }));
    await expect(
      fetchImage(host.url, options(listing(host))),
      `redirect to ${location}`,
    ).rejects.toThrow(code('url_not_allowed'));
  }
  expect(inside.received).toEqual([]);
});

test('a body without end is cut at the limit, announced or not', async () => {
  for (const headers of [{}, { 'content-length': String(10 * 1024 ** 3) }]) {
    const host = await hostThat(answersForEver(200, headers));
    await expect(fetchImage(host.url, options(listing(host)))).rejects.toThrow(
      code('upload_too_large'),
    );
    await expect.poll(() => host.openConnections()).toBe(0);
    // What was in flight when we stopped: socket buffers of both sides, not gigabytes.
    expect(host.bytesSent()).toBeLessThan(50_000_000);
  }
});

test('an answer of any other kind is a fault of the URL', async () => {
  for (const [status, headers] of [
    [204, {}],
    [206, {}],
    [304, {}],
    [302, {}],
    [401, {}],
    [404, {}],
    [500, {}],
    [200, { 'content-encoding': 'gzip' }],
  ] as [number, Record<string, string>][]) {
    const host = await hostThat(answers(status, headers, 'x'));
    await expect(
      fetchImage(host.url, options(listing(host))),
      `${status} ${JSON.stringify(headers)}`,
    ).rejects.toThrow(code('image_url_failed'));
  }
  const empty = await hostThat(answers(200));
  await expect(fetchImage(empty.url, options(listing(empty)))).rejects.toThrow(
    code('missing_image'),
  );
});

test('a status that HTTP says may pass is one to try again, when the host asks for it', async () => {
  const inAMinute = new Date(Date.now() + 60_000).toUTCString();
  for (const [status, retryAfter, asked] of [
    [408, undefined, undefined],
    [429, '120', 120],
    [502, 'soon', undefined],
    [503, '0', 1],
    [503, inAMinute, expect.closeTo(60, -1)],
    [504, '31536000', 3600],
  ] as const) {
    const host = await hostThat(
      answers(status, retryAfter === undefined ? {} : { 'retry-after': retryAfter }, 'x'),
    );
    await expect(fetchImage(host.url, options(listing(host))), `${status}`).rejects.toMatchObject({
      code: 'image_url_unavailable',
      message: expect.stringContaining(`${status}. Try again later, or upload`),
      retryAfterSeconds: asked,
    });
  }
});

test('a host that is down, silent, slow or cuts the connection may be up again later', async () => {
  const unavailable = code('image_url_unavailable');
  const silent = await hostThat(saysNothing);
  const slow = await hostThat((_request, response) => {
    response.writeHead(200);
    const drip = setInterval(() => response.write('.'), 10);
    response.on('close', () => clearInterval(drip));
  });
  for (const host of [silent, slow]) {
    await expect(fetchImage(host.url, options(listing(host), { timeoutMs: 300 }))).rejects.toThrow(
      unavailable,
    );
    await expect.poll(() => host.openConnections()).toBe(0);
  }
  const cuts = await hostThat((_request, response) => {
    response.writeHead(200, { 'content-length': '100' });
    response.write('half', () => response.destroy());
  });
  const cutsChunks = await hostThat((_request, response) => {
    response.write('half', () => response.destroy());
  });
  const resets = await hostThat((_request, response) => response.socket?.resetAndDestroy());
  const closes = await hostThat((_request, response) => response.socket?.end());
  for (const host of [cuts, cutsChunks, resets, closes]) {
    await expect(fetchImage(host.url, options(listing(host)))).rejects.toThrow(unavailable);
  }
  const down = await hostThat(saysNothing);
  await down.stop();
  started.splice(started.indexOf(down), 1);
  await expect(fetchImage(down.url, options(listing(down)))).rejects.toThrow(unavailable);
  // Of several addresses, too.
  const addresses = ['127.0.0.1', '127.0.0.2'].flatMap(v4);
  const everywhere = listing(...addresses.map(({ address }) => `${address}:${down.port}`));
  await expect(
    fetchImage(
      `http://photos.example:${down.port}/`,
      options(everywhere, { resolve: async () => addresses }),
    ),
  ).rejects.toThrow(unavailable);
});

test('a host that does not speak HTTP as it should is one for good', async () => {
  const endless = await hostThat((_request, response) => {
    response.socket?.write(`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(100_000)}\r\n\r\n`);
  });
  const other = await hostThat((_request, response) => {
    response.socket?.end('220 mail.example ESMTP\r\n');
  });
  const withoutTls = await hostThat(answers(200, {}, 'x'));
  for (const [host, url] of [
    [endless, endless.url],
    [other, other.url],
    [withoutTls, withoutTls.url.replace('http:', 'https:')],
  ] as const) {
    await expect(fetchImage(url, options(listing(host))), url).rejects.toThrow(
      code('image_url_failed'),
    );
  }
});

test('a look-up that failed for now tells no more than a connection that failed', async () => {
  const failing = (name: string): Promise<Address[]> =>
    Promise.reject(Object.assign(new Error(`query ${name} photos.example`), { code: name }));
  const fetching = (resolve: () => Promise<Address[]>) =>
    fetchImage('http://photos.example/', options(listing(), { timeoutMs: 100, resolve }));
  for (const name of ['EAI_AGAIN', 'ESERVFAIL', 'ETIMEOUT', 'ECONNREFUSED']) {
    await expect(fetching(() => failing(name))).rejects.toMatchObject({
      code: 'image_url_unavailable',
      message: expect.stringMatching(/^The connection to the image's host failed\./),
    });
  }
  for (const name of ['ENOTFOUND', 'ENODATA', 'EREFUSED']) {
    await expect(fetching(() => failing(name))).rejects.toThrow(code('url_not_allowed'));
  }
  await expect(fetching(() => new Promise(() => {}))).rejects.toThrow(
    code('image_url_unavailable'),
  );
});

test('stops when told to', async () => {
  const host = await hostThat(saysNothing);
  const abort = new AbortController();
  const fetching = fetchImage(host.url, options(listing(host), { signal: abort.signal }));
  await expect.poll(() => host.received.length).toBe(1);
  abort.abort(new Error('enough'));
  await expect(fetching).rejects.toThrow(code('image_url_failed'));
  await expect.poll(() => host.openConnections()).toBe(0);
});
