/** Which addresses and URLs are refused without any look-up, in every notation that a client can write. */
import { describe, expect, test } from 'vitest';
import { AddressPolicy, parseAllowEntry } from '../../../src/net/address-policy.ts';
import { checkUrl } from '../../../src/net/checked-url.ts';
import { hostileHosts, hostileUrls } from '../../support/hostile-urls.ts';

const anywhere = (list: string[] = []) => ({
  policy: new AddressPolicy(list),
  plainHttp: 'anywhere' as const,
});
const refusal = expect.objectContaining({ code: 'url_not_allowed' });

describe('hosts that are not public', () => {
  test.each(hostileHosts)('%s', (host) => {
    for (const url of [`http://${host}/`, `https://${host}:8443/x?y=1`, `HTTP://${host}:80`]) {
      expect(() => checkUrl(url, anywhere())).toThrow(refusal);
    }
  });
});

describe('URLs that are none of ours', () => {
  test.each(hostileUrls)('%j', (url) => {
    expect(() => checkUrl(url, anywhere())).toThrow(refusal);
  });
});

test('public addresses and names pass', () => {
  for (const url of [
    'https://93.184.215.14/photo.png',
    'http://93.184.215.14:8080/photo.png',
    'https://[2606:4700::1111]/photo.png',
    'https://example.com/photo.png?size=1#part',
    'https://bücher.example/ä.png',
  ]) {
    expect(checkUrl(url, anywhere())).toBeInstanceOf(URL);
  }
});

test('a refusal says nothing of what is behind the service', () => {
  const detailOf = (url: string): string => {
    try {
      checkUrl(url, anywhere());
    } catch (error) {
      return (error as Error).message;
    }
    throw new Error(`${url} passed`);
  };
  expect(detailOf('http://127.0.0.1/')).toBe(detailOf('http://10.0.0.1:6379/'));
});

test('a port of another protocol is named, whatever the host', () => {
  for (const host of ['93.184.215.14', 'no-such-host.example', '127.0.0.1']) {
    const url = `http://${host}:25/`;
    expect(() => checkUrl(url, anywhere())).toThrow(/port 80, 443.* received 25\./);
    expect(checkUrl(url, anywhere([`${host}:25`]))).toBeInstanceOf(URL);
  }
});

test('plain HTTP where only TLS is wanted: for listed hosts alone', () => {
  const rules = (list: string[]) => ({
    policy: new AddressPolicy(list),
    plainHttp: 'listed' as const,
  });
  expect(() => checkUrl('http://example.com/', rules([]))).toThrow(refusal);
  expect(() => checkUrl('http://93.184.215.14/', rules(['10.0.0.0/8']))).toThrow(refusal);
  expect(checkUrl('https://example.com/', rules([])).href).toBe('https://example.com/');
  expect(checkUrl('http://hooks.test/', rules(['hooks.test'])).href).toBe('http://hooks.test/');
  expect(checkUrl('http://10.1.2.3/', rules(['10.0.0.0/8'])).href).toBe('http://10.1.2.3/');
  // Where a name leads is known when connecting.
  expect(checkUrl('http://hooks.test/', rules(['10.0.0.0/8'])).href).toBe('http://hooks.test/');
});

describe('the allow-list', () => {
  const reach = (list: string[], address: string, port = 80) =>
    new AddressPolicy(list).reachOf(address, port);

  test('addresses and blocks, with and without a port', () => {
    expect(reach(['127.0.0.1'], '127.0.0.1')).toBe('listed');
    expect(reach(['127.0.0.1'], '::ffff:127.0.0.1')).toBe('listed');
    expect(reach(['127.0.0.1'], '127.0.0.2')).toBeUndefined();
    expect(reach(['10.0.0.0/8'], '10.200.0.1', 22)).toBe('listed');
    expect(reach(['10.0.0.0/8:9000'], '10.200.0.1', 9000)).toBe('listed');
    expect(reach(['10.0.0.0/8:9000'], '10.200.0.1', 9001)).toBeUndefined();
    expect(reach(['fd00::/8'], 'fd00::7')).toBe('listed');
    expect(reach(['[fd00::7]:9000'], 'fd00::7', 9000)).toBe('listed');
    expect(reach(['[fd00::7]:9000'], 'fd00::7', 80)).toBeUndefined();
    expect(reach([], '93.184.215.14', 443)).toBe('public');
    expect(reach([], '93.184.215.14', 25)).toBeUndefined();
    expect(reach([], 'no address')).toBeUndefined();
  });

  test('names, exact or below a domain', () => {
    const policy = new AddressPolicy(['hooks.internal:9000', '*.svc.cluster.local', 'localhost']);
    expect(policy.listsName('hooks.internal', 9000)).toBe(true);
    expect(policy.listsName('hooks.internal', 80)).toBe(false);
    expect(policy.listsName('a.hooks.internal', 9000)).toBe(false);
    expect(policy.listsName('shop.default.svc.cluster.local', 80)).toBe(true);
    expect(policy.listsName('SHOP.default.svc.cluster.local.', 80)).toBe(true);
    expect(policy.listsName('svc.cluster.local', 80)).toBe(false);
    expect(policy.listsName('evilsvc.cluster.local', 80)).toBe(false);
    expect(policy.listsName('localhost.evil.example', 80)).toBe(false);
  });

  test.each([
    '',
    '*',
    'http://x',
    'a/b',
    '10.0.0.0/33',
    'host:0',
    'host:99999',
    'a b',
    '*.*.x',
    '[::1',
  ])('is not %j', (text) => {
    expect(parseAllowEntry(text)).toBeUndefined();
    expect(() => new AddressPolicy([text])).toThrow(
      expect.objectContaining({ code: 'invalid_config' }),
    );
  });
});
