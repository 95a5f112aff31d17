import { expect, test } from 'vitest';
import { DeliverySlots } from '../../../src/webhooks/delivery-slots.ts';

const settings = { WEBHOOKS_IN_FLIGHT: 16, WEBHOOKS_IN_FLIGHT_PER_HOST: 2 };
const withKeys = { ...settings, API_KEYS_FILE: 'keys.json' };
const withoutKeys = { ...settings, API_KEYS_FILE: '' };

/** @returns how many of them are under way */
const taken = (slots: DeliverySlots, urls: readonly string[], client: string): number =>
  urls.filter((url) => 'release' in slots.take({ url, client })).length;

test('a host is one, whatever the port, the case, the path and the dot of the root', () => {
  const urls = [
    'https://hooks.example/a',
    'https://hooks.example:8443/',
    'http://hooks.example./',
    'https://HOOKS.example:1/',
  ];
  for (const config of [withKeys, withoutKeys]) {
    expect(taken(new DeliverySlots(config), urls, 'shop')).toBe(2);
  }
});

test("a client takes no room of a host from another's deliveries", () => {
  const slots = new DeliverySlots(withKeys);
  const filtered = ['https://hooks.example:8443/', 'https://hooks.example:9443/'];
  expect(taken(slots, filtered, 'evil')).toBe(2);
  expect(taken(slots, filtered.slice(0, 1), 'evil')).toBe(0);
  expect(taken(slots, ['https://hooks.example/'], 'shop')).toBe(1);
});

test('a client has a quarter of all slots, whatever its hosts', () => {
  const slots = new DeliverySlots(withKeys);
  const urls = Array.from({ length: 20 }, (_, i) => `https://${i}.evil.example/`);
  expect(taken(slots, urls, 'evil')).toBe(4);
  expect(slots.take({ url: 'https://hooks.example/', client: 'evil' })).toEqual({
    putOffMs: expect.any(Number),
  });
  expect(taken(slots, ['https://hooks.example/'], 'shop')).toBe(1);
});

test('but one, where there are fewer than four', () => {
  const slots = new DeliverySlots({ ...withKeys, WEBHOOKS_IN_FLIGHT: 2 });
  expect(taken(slots, ['https://a.example/', 'https://b.example/'], 'shop')).toBe(1);
});

test('nobody counts where no keys tell clients apart', () => {
  const slots = new DeliverySlots(withoutKeys);
  const urls = Array.from({ length: 20 }, (_, i) => `https://${i}.example/`);
  expect(taken(slots, urls, 'anyone')).toBe(20);
});

test('both slots come back: of a delivery that has ended, and of one that found no room', () => {
  const slots = new DeliverySlots({ ...withKeys, WEBHOOKS_IN_FLIGHT: 4 });
  const take = (url: string, client: string) => slots.take({ url, client });
  const room = take('https://a.example/', 'shop');
  // The client has no slot left, so the host has to get its own back.
  for (let i = 0; i < 5; i += 1) {
    expect(take('https://b.example/', 'shop')).toHaveProperty('putOffMs');
  }
  expect(take('https://b.example/', 'rival')).toHaveProperty('release');
  if ('release' in room) room.release();
  expect(take('https://a.example/', 'shop')).toHaveProperty('release');
});
