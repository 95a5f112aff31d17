/** Who gets the lock of `models add`. Every taker is a machine of its own here, as on a volume that many share. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { withLock } from '../../../src/commands/add-model/lock.ts';

let machines = 0;
vi.mock('node:os', async (original) => ({
  ...(await original<typeof import('node:os')>()),
  // Asked for by each who takes the lock, or judges whether its holder is alive.
  hostname: () => `machine-${machines++}`,
}));
// Who waits looks again at once.
vi.mock('node:timers/promises', () => ({
  setTimeout: () => new Promise((resolve) => setImmediate(resolve)),
}));
/** Between any two steps of one taker the others may go on: for how long, a fixed row of numbers says. */
let seed = 1;
async function letOthers(): Promise<void> {
  seed = (seed * 48_271) % 2_147_483_647;
  for (let left = seed % 12; left > 0; left--) await turn();
}
const turn = () => new Promise((resolve) => setImmediate(resolve));
vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>();
  const slow = <Args extends unknown[], T>(call: (...args: Args) => Promise<T>) =>
    vi.fn(async (...args: Args): Promise<T> => {
      await letOthers();
      return call(...args);
    });
  return {
    ...real,
    mkdir: slow(real.mkdir as (folder: string) => Promise<undefined>),
    rename: slow(real.rename),
    rm: slow(real.rm),
    rmdir: slow(real.rmdir as (folder: string) => Promise<void>),
    stat: slow(real.stat as (file: string) => Promise<unknown>),
    writeFile: slow(real.writeFile as (file: string, text: string) => Promise<void>),
  };
});

let folder: string;
let lock: string;
beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'pisa-lock-'));
  lock = path.join(folder, '.bundle.lock');
});
afterEach(() => rmSync(folder, { recursive: true, force: true }));

/** The lock of a process that was killed two minutes ago. */
function leaveStaleLock(file: string): void {
  mkdirSync(lock);
  writeFileSync(path.join(lock, file), JSON.stringify({ host: 'gone', pid: 1 }));
  const then = new Date(Date.now() - 120_000);
  utimesSync(lock, then, then);
}

// `owner` is how the file of every holder was called before.
test.each(['a-holder', 'owner'])(
  'of many who find a stale lock, left with the file %s, one at a time holds it',
  async (file) => {
    const takers = 8;
    let most = 0;
    let runs = 0;
    for (let round = 0; round < 40; round++) {
      leaveStaleLock(file);
      let holders = 0;
      const work = async () => {
        holders += 1;
        most = Math.max(most, holders);
        for (let i = 0; i < 5; i++) await turn();
        holders -= 1;
        runs += 1;
      };
      await Promise.all(Array.from({ length: takers }, () => withLock(lock, () => {}, work)));
    }
    expect(most).toBe(1);
    expect(runs).toBe(40 * takers);
    expect(readdirSync(folder)).toEqual([]);
  },
);

test('whoever comes back late takes the lock from nobody', async () => {
  let end = () => {};
  let other: Promise<void> | undefined;
  await withLock(
    lock,
    () => {},
    async () => {
      const then = new Date(Date.now() - 120_000);
      utimesSync(lock, then, then);
      await new Promise<void>((taken) => {
        other = withLock(
          lock,
          () => {},
          () => {
            taken();
            return new Promise((resolve) => {
              end = resolve;
            });
          },
        );
      });
    },
  );
  expect(readdirSync(lock)).toHaveLength(1);
  end();
  await other;
  expect(readdirSync(folder)).toEqual([]);
});

test('an empty folder is a lock that is being taken, for a while', async () => {
  mkdirSync(lock);
  const onWait = vi.fn(() => {
    const then = new Date(Date.now() - 10_000);
    utimesSync(lock, then, then);
  });
  await withLock(lock, onWait, async () => {
    expect(readdirSync(lock)).toHaveLength(1);
  });
  expect(onWait).toHaveBeenCalledOnce();
  expect(readdirSync(folder)).toEqual([]);
});

test('of a lock that says nothing legible the age decides', async () => {
  leaveStaleLock('a-holder');
  writeFileSync(path.join(lock, 'a-holder'), Buffer.alloc(20));
  const onWait = vi.fn(() => {
    const then = new Date(Date.now() - 120_000);
    utimesSync(lock, then, then);
  });
  utimesSync(lock, new Date(), new Date());
  await withLock(lock, onWait, async () => {});
  expect(onWait).toHaveBeenCalledOnce();
});

test('a lock that cannot be written leaves nothing, and the fault is told', async () => {
  const full = Object.assign(new Error('no space'), { code: 'ENOSPC' });
  vi.mocked(writeFile).mockRejectedValueOnce(full);
  const taken = withLock(
    lock,
    () => {},
    async () => {},
  );
  await expect(taken).rejects.toBe(full);
  expect(readdirSync(folder)).toEqual([]);
});
