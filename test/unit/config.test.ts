import { expect, test } from 'vitest';
import { loadConfig } from '../../src/config.ts';

test('defaults hold when nothing is set, and the result is frozen', () => {
  const config = loadConfig({});
  expect(config).toMatchObject({
    PORT: 8080,
    HOST: '127.0.0.1',
    DEVICES: ['cpu'],
    MODEL: 'pisa-tiny',
  });
  expect(Object.isFrozen(config)).toBe(true);
});

test('an empty value counts as unset', () => {
  expect(loadConfig({ PORT: '' }).PORT).toBe(8080);
});

test('values are parsed to their types', () => {
  const config = loadConfig({ PORT: '9000', DEVICES: 'cuda:0, cuda:1', STORAGE: 'folder:/data' });
  expect(config).toMatchObject({
    PORT: 9000,
    DEVICES: ['cuda:0', 'cuda:1'],
    STORAGE: 'folder:/data',
  });
});

test('all faults are told together, each with name, expected format and received value', () => {
  const load = () => loadConfig({ PORT: 'eighty', DEVICES: 'gpu', LOG_LEVEL: 'loud' });
  expect(load).toThrow(/Expected a whole number from 0 to 65535 for PORT but received "eighty"/);
  expect(load).toThrow(/for DEVICES but received "gpu"/);
  expect(load).toThrow(/for LOG_LEVEL but received "loud"/);
});

test.each([
  ['PORT', ' '],
  ['PORT', '1.5'],
  ['PORT', '-1'],
  ['PORT', '70000'],
  ['DEVICES', 'cpu,cpu'],
  ['DEVICES', 'cuda'],
  ['REDIS_URL', 'localhost:6379'],
  ['STORAGE', 'folder:'],
  ['MODEL', '../etc'],
  ['WEBHOOK_RETRY_SECONDS', '5,,60'],
  ['WEBHOOK_RETRY_SECONDS', '-1'],
  ['WEBHOOK_RETRY_SECONDS', '1e3'],
  ['WEBHOOK_ALLOWED_HOSTS', 'http://hooks.internal'],
  ['IMAGE_URL_ALLOWED_HOSTS', '10.0.0.0/99'],
  ['PUBLIC_URL', 'upscale.example'],
])('%s=%j is refused', (name, value) => {
  expect(() => loadConfig({ [name]: value })).toThrow(name);
});

test('a faulty secret is named, not shown', () => {
  const good = `whsec_${Buffer.alloc(32, 7).toString('base64')}`;
  expect(loadConfig({ WEBHOOK_SECRET: `${good}, ${good}` }).WEBHOOK_SECRET).toEqual([good, good]);
  const load = () => loadConfig({ WEBHOOK_SECRET: `${good},my-password` });
  expect(load).toThrow(/whsec_ and the base64 of 24 to 64 bytes for WEBHOOK_SECRET/);
  expect(load).not.toThrow(/my-password/);
});
