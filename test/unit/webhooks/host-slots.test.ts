import { expect, test } from 'vitest';
import { HostSlots } from '../../../src/webhooks/host-slots.ts';

const url = 'https://hooks.example/a?b=c';
const now = 1_767_225_600_000;
/** Neither shortened nor spread. */
const exact = 0;

function busyHost(slots: number): { hosts: HostSlots; release: () => void } {
  const hosts = new HostSlots(slots);
  const releases = Array.from({ length: slots }, () => hosts.take(url));
  return {
    hosts,
    release: () => {
      for (const release of releases) release?.();
    },
  };
}

test('gives each host as many slots as there are, and takes them back', () => {
  const hosts = new HostSlots(2);
  const first = hosts.take(url);
  expect(hosts.take('https://hooks.example/other')).toBeTypeOf('function');
  expect(hosts.take(url)).toBeUndefined();
  expect(hosts.take('https://other.example/')).toBeTypeOf('function');
  first?.();
  expect(hosts.take(url)).toBeTypeOf('function');
  expect(hosts.take(url)).toBeUndefined();
});

test('puts off by 200 ms × put off / slots, from 200 ms to 15 s', () => {
  const { hosts } = busyHost(4);
  const delays = Array.from({ length: 1000 }, () => hosts.putOffMs(url, now, exact));
  // Of the n-th: 50 ms × n.
  expect(delays.slice(0, 6)).toEqual([200, 200, 200, 200, 250, 300]);
  expect(delays.slice(297, 302)).toEqual([14_900, 14_950, 15_000, 15_000, 15_000]);
  expect(delays[999]).toBe(15_000);
});

test('counts only those that are not back yet', () => {
  const { hosts } = busyHost(1);
  for (let i = 0; i < 10; i += 1) hosts.putOffMs(url, now, exact);
  expect(hosts.putOffMs(url, now, exact)).toBe(2200);
  expect(hosts.putOffMs(url, now + 2000, exact)).toBe(400);
  expect(hosts.putOffMs(url, now + 60_000, exact)).toBe(200);
});

test('spreads them over the second half of the time', () => {
  const { hosts } = busyHost(1);
  expect(hosts.putOffMs(url, now, 0.5)).toBe(150);
  expect(hosts.putOffMs(url, now, 0.75)).toBe(250);
  expect(hosts.putOffMs(url, now, 0.5)).toBe(450);
});

test('a host keeps others as they are, and begins anew once it has nothing under way', () => {
  const { hosts, release } = busyHost(1);
  for (let i = 0; i < 100; i += 1) hosts.putOffMs(url, now, exact);
  hosts.take('https://other.example/');
  expect(hosts.putOffMs('https://other.example/', now, exact)).toBe(200);
  release();
  hosts.take(url);
  expect(hosts.putOffMs(url, now, exact)).toBe(200);
});

test('a backlog of 1,000 for a host that never answers asks for slots 100 times a second at most', () => {
  const { hosts } = busyHost(8);
  let seed = 1;
  const random = (): number => {
    seed = (seed * 16_807) % 2_147_483_647;
    return seed / 2_147_483_647;
  };
  const asksAt = Array.from({ length: 1000 }, () => now);
  let asked = 0;
  for (let at = now; at < now + 60_000; at += 10) {
    for (const [index, time] of asksAt.entries()) {
      if (time > at) continue;
      if (at >= now + 15_000) asked += 1;
      asksAt[index] = at + hosts.putOffMs(url, at, random());
    }
  }
  expect(asked / 45).toBeGreaterThan(40);
  expect(asked / 45).toBeLessThan(100);
});
