import { expect, test } from 'vitest';
import { Slots } from '../../../src/webhooks/slots.ts';

const owner = 'hooks.example';
const other = 'other.example';
const now = 1_767_225_600_000;
/** Neither shortened nor spread. */
const exact = 0;

function busyOwner(limit: number): { slots: Slots; release: () => void } {
  const slots = new Slots(limit);
  const releases = Array.from({ length: limit }, () => slots.take(owner));
  return {
    slots,
    release: () => {
      for (const release of releases) release?.();
    },
  };
}

test('gives each owner as many slots as there are, and takes them back', () => {
  const slots = new Slots(2);
  const first = slots.take(owner);
  expect(slots.take(owner)).toBeTypeOf('function');
  expect(slots.take(owner)).toBeUndefined();
  expect(slots.take(other)).toBeTypeOf('function');
  first?.();
  expect(slots.take(owner)).toBeTypeOf('function');
  expect(slots.take(owner)).toBeUndefined();
});

test('puts off by 200 ms × put off / slots, from 200 ms to 15 s', () => {
  const { slots } = busyOwner(4);
  const delays = Array.from({ length: 1000 }, () => slots.putOffMs(owner, now, exact));
  // Of the n-th: 50 ms × n.
  expect(delays.slice(0, 6)).toEqual([200, 200, 200, 200, 250, 300]);
  expect(delays.slice(297, 302)).toEqual([14_900, 14_950, 15_000, 15_000, 15_000]);
  expect(delays[999]).toBe(15_000);
});

test('counts only those that are not back yet', () => {
  const { slots } = busyOwner(1);
  for (let i = 0; i < 10; i += 1) slots.putOffMs(owner, now, exact);
  expect(slots.putOffMs(owner, now, exact)).toBe(2200);
  expect(slots.putOffMs(owner, now + 2000, exact)).toBe(400);
  expect(slots.putOffMs(owner, now + 60_000, exact)).toBe(200);
});

test('spreads them over the second half of the time', () => {
  const { slots } = busyOwner(1);
  expect(slots.putOffMs(owner, now, 0.5)).toBe(150);
  expect(slots.putOffMs(owner, now, 0.75)).toBe(250);
  expect(slots.putOffMs(owner, now, 0.5)).toBe(450);
});

test('an owner keeps others as they are, and begins anew once it has nothing under way', () => {
  const { slots, release } = busyOwner(1);
  for (let i = 0; i < 100; i += 1) slots.putOffMs(owner, now, exact);
  slots.take(other);
  expect(slots.putOffMs(other, now, exact)).toBe(200);
  release();
  slots.take(owner);
  expect(slots.putOffMs(owner, now, exact)).toBe(200);
});

test('a backlog of 1,000 for one that never answers asks for slots 100 times a second at most', () => {
  const { slots } = busyOwner(8);
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
      asksAt[index] = at + slots.putOffMs(owner, at, random());
    }
  }
  expect(asked / 45).toBeGreaterThan(40);
  expect(asked / 45).toBeLessThan(100);
});
