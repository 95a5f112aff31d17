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
])('%s=%j is refused', (name, value) => {
  expect(() => loadConfig({ [name]: value })).toThrow(name);
});
