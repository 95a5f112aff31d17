import { EventEmitter } from 'node:events';
import { beforeEach, describe, expect, test } from 'vitest';
import type { Device } from '../../../src/worker/device.ts';
import { DevicePool, type Lease } from '../../../src/worker/device-pool.ts';
import { HandBack } from '../../../src/worker/hand-back.ts';

/** A device without a process: only what the pool looks at. */
class FakeDevice extends EventEmitter {
  status = 'ready';
  accepting = true;
  jobs = 0;
  models: { name: string }[] = [];
  unopened = new Set<string>();
  readonly name: string;

  constructor(name: string) {
    super();
    this.name = name;
  }

  /** As one that has grown too large, or was killed and has not ended yet. */
  takeNoMore(jobs: number): void {
    this.accepting = false;
    this.jobs = jobs;
    this.emit('status', this.status);
  }

  become(status: string): void {
    this.status = status;
    this.accepting = status === 'ready';
    this.emit('status', status);
  }
}

let devices: FakeDevice[];
let pool: DevicePool;
const never = new AbortController().signal;

beforeEach(() => {
  devices = [new FakeDevice('cuda:0'), new FakeDevice('cuda:1')];
  pool = new DevicePool(devices as unknown as Device[], 2);
});

const acquire = (alone = false, signal = never, model = 'tiny') =>
  pool.acquire(model, alone, signal);
const nameOf = (lease: Lease) => lease.device.name;

/** What a lease became by the time all that is due has run. */
async function outcome(lease: Promise<Lease>): Promise<string> {
  const turn = new Promise<string>((resolve) => setImmediate(() => resolve('waits')));
  return Promise.race([lease.then(nameOf, (error: Error) => error.name), turn]);
}

describe('a pool of two devices with two slots each', () => {
  test('spreads jobs over the least busy devices', async () => {
    const leases = await Promise.all([acquire(), acquire(), acquire(), acquire()]);
    expect(leases.map(nameOf).sort()).toEqual(['cuda:0', 'cuda:0', 'cuda:1', 'cuda:1']);
    expect(leases.slice(0, 2).map(nameOf).sort()).toEqual(['cuda:0', 'cuda:1']);
  });

  test('asks no device again that could not open the model, while another may', async () => {
    devices[0]?.unopened.add('large');
    const large = () => acquire(false, never, 'large');
    const leases = await Promise.all([large(), large()]);
    expect(leases.map(nameOf)).toEqual(['cuda:1', 'cuda:1']);
    const third = large();
    expect(await outcome(third)).toBe('waits');
    leases[0]?.release();
    expect(await outcome(third)).toBe('cuda:1');
    devices[1]?.unopened.add('large');
    expect(nameOf(await large())).toBe('cuda:0');
  });

  test('lets the fifth wait until one is done', async () => {
    const leases = await Promise.all([acquire(), acquire(), acquire(), acquire()]);
    const fifth = acquire();
    expect(await outcome(fifth)).toBe('waits');
    leases[2]?.release();
    expect(nameOf(await fifth)).toBe(leases[2]?.device.name);
  });

  test('does not count a second release of the same lease', async () => {
    const leases = await Promise.all([acquire(), acquire(), acquire(), acquire()]);
    leases[0]?.release();
    leases[0]?.release();
    await acquire();
    expect(await outcome(acquire())).toBe('waits');
  });

  test('gives a device to a job alone, and nothing else to that device', async () => {
    const alone = await acquire(true);
    const others = await Promise.all([acquire(), acquire()]);
    expect(others.map(nameOf)).not.toContain(nameOf(alone));
    const next = acquire();
    expect(await outcome(next)).toBe('waits');
    alone.release();
    expect(nameOf(await next)).toBe(nameOf(alone));
  });

  test('does not let small jobs overtake one that waits for a whole device', async () => {
    const leases = await Promise.all([acquire(), acquire(), acquire()]);
    const alone = acquire(true);
    const small = acquire();
    expect(await outcome(small)).toBe('waits');
    leases[0]?.release();
    leases[1]?.release();
    leases[2]?.release();
    await alone;
    await small;
  });

  test('a job that is cancelled while it waits leaves the queue to those behind it', async () => {
    await Promise.all([acquire(), acquire(), acquire()]);
    const cancel = new AbortController();
    const alone = acquire(true, cancel.signal);
    const small = acquire();
    cancel.abort(new Error('canceled'));
    await expect(alone).rejects.toThrow('canceled');
    await small;
    const late = acquire(false, cancel.signal);
    await expect(late).rejects.toThrow('canceled');
  });

  test('uses only devices that are up', async () => {
    devices[0]?.become('restarting');
    expect(pool.slots).toBe(2);
    const leases = await Promise.all([acquire(), acquire()]);
    expect(leases.map(nameOf)).toEqual(['cuda:1', 'cuda:1']);
    const third = acquire();
    expect(await outcome(third)).toBe('waits');
    devices[0]?.become('ready');
    expect(nameOf(await third)).toBe('cuda:0');
  });

  test('sends no more to a device that is about to be replaced', async () => {
    devices[0]?.takeNoMore(1);
    const leases = await Promise.all([acquire(), acquire()]);
    expect(leases.map(nameOf)).toEqual(['cuda:1', 'cuda:1']);
    const third = acquire();
    expect(await outcome(third)).toBe('waits');
    devices[0]?.become('ready');
    expect(nameOf(await third)).toBe('cuda:0');
  });

  test('counts what such a device still has, and not its free slots', () => {
    expect(pool.slots).toBe(4);
    devices[0]?.takeNoMore(1);
    expect(pool.slots).toBe(3);
    devices[0]?.takeNoMore(0);
    expect(pool.slots).toBe(2);
  });

  test('keeps no job waiting for devices that all are about to be replaced', async () => {
    await Promise.all([acquire(), acquire(), acquire(), acquire()]);
    const waiting = acquire();
    for (const device of devices) device.takeNoMore(2);
    expect(pool.slots).toBe(0);
    await expect(waiting).rejects.toBeInstanceOf(HandBack);
  });

  test('hands jobs back when no device is up: another worker may have one', async () => {
    await Promise.all([acquire(), acquire(), acquire(), acquire()]);
    const waiting = acquire();
    for (const device of devices) device.become('restarting');
    expect(pool.slots).toBe(0);
    await expect(waiting).rejects.toBeInstanceOf(HandBack);
    await expect(acquire()).rejects.toBeInstanceOf(HandBack);
  });
});

test('a pool offers what one of its devices may open, of those that know their models', () => {
  const [one, two] = devices as [FakeDevice, FakeDevice];
  const offered = () => [pool.models.map(({ name }) => name), pool.unopened];
  expect(offered()).toEqual([[], []]);
  one.models = [{ name: 'tiny' }, { name: 'large' }];
  one.unopened.add('large');
  expect(offered()).toEqual([['tiny'], ['large']]);
  two.models = one.models;
  expect(offered()).toEqual([['tiny', 'large'], []]);
  two.unopened.add('large');
  expect(offered()).toEqual([['tiny'], ['large']]);
});
