/** How long a device waits for a run that it has told to stop, and when there is room for another. */
import path from 'node:path';
import pino from 'pino';
import { afterEach, expect, test, vi } from 'vitest';
import { AppError } from '../../../src/errors.ts';
import type { UpscaleJobData } from '../../../src/jobs/job.ts';
import { metrics } from '../../../src/metrics.ts';
import { Device, type DeviceLimits, HandBack } from '../../../src/worker/device.ts';
import { DeviceChild } from '../../../src/worker/device-child.ts';
import type { DeviceSettings } from '../../../src/worker/protocol.ts';
import { deviceLimits } from '../../../src/worker/start-worker.ts';
import { jobData } from '../../support/worker.ts';

const canceled = new AppError('canceled', 'enough');
let device: Device;
afterEach(() => {
  vi.useRealTimers();
  return device.stop();
});

/** Every line that the device logged as an error. */
let errors: Record<string, unknown>[] = [];

async function start(limits: Partial<DeviceLimits> = {}, defaultModel = ''): Promise<void> {
  errors = [];
  const write = (line: string) => errors.push(JSON.parse(line) as Record<string, unknown>);
  device = new Device({
    program: path.resolve(import.meta.dirname, '../../support/fake-device.mjs'),
    settings: { device: 'cpu', defaultModel } as DeviceSettings,
    logger: pino({ level: 'error' }, { write }),
    limits: {
      startMs: 30_000,
      hangMs: 60_000,
      abortGraceMs: 60_000,
      settleMs: 60_000,
      maxResidentBytes: 1e12,
      restartDelayMs: 10,
      ...limits,
    },
  });
  await device.start();
}

/** @param does see test/support/fake-device.mjs */
function run(does: 'busy' | 'deaf' | 'ending' | 'large', more: Partial<UpscaleJobData> = {}) {
  const abort = new AbortController();
  const data = { ...jobData('id', Buffer.alloc(1)), requestId: does, ...more };
  return { ...device.run('id', data, abort.signal, () => {}), abort };
}

/** Whether the device takes jobs and how many it has, at every change that it tells of. */
function changes(): [boolean, number][] {
  const told: [boolean, number][] = [];
  device.on('status', () => told.push([device.accepting, device.jobs]));
  return told;
}

const kills = async (): Promise<number> => {
  const { values } = await metrics.deviceRestarts.get();
  return values.find(({ labels }) => labels.reason === 'disobeyed')?.value ?? 0;
};

/** What a promise came to by now. */
const outcome = (promise: Promise<unknown>): Promise<string> =>
  Promise.race([
    promise.then(() => 'resolved'),
    new Promise<string>((resolve) => setImmediate(() => resolve('waits'))),
  ]);

test('a job that is stopped ends at once; its place is free when nothing of its run goes on', async () => {
  await start();
  const before = await kills();
  const { result, over, abort } = run('busy');
  abort.abort(canceled);
  await expect(result).rejects.toBe(canceled);
  expect(device.jobs).toBe(0);
  expect(await outcome(over)).toBe('waits');
  const ending = run('ending');
  await Promise.all([ending.result, ending.over, over]);
  expect(await kills()).toBe(before);
});

test('so does one that exceeds its time limit', async () => {
  await start();
  const { result, over } = run('busy', { timeoutMs: 20 });
  await expect(result).rejects.toMatchObject({ code: 'job_timeout' });
  expect(await outcome(over)).toBe('waits');
  expect(device.status).toBe('ready');
});

test('a process that does not stop a job is replaced, and the others in it go back to the queue', async () => {
  await start({ abortGraceMs: 50 });
  const before = await kills();
  const [deaf, bystander] = [run('deaf'), run('busy')];
  deaf.abort.abort(canceled);
  await expect(deaf.result).rejects.toBe(canceled);
  await expect(bystander.result).rejects.toBeInstanceOf(HandBack);
  await Promise.all([deaf.over, bystander.over]);
  expect(await kills()).toBe(before + 1);
});

test('a process that was killed gets no job any more, though it has not ended yet', async () => {
  await start({ abortGraceMs: 20 });
  // The moment between the two, held.
  const kill = vi.spyOn(DeviceChild.prototype, 'kill').mockImplementation(() => {});
  const told = changes();
  const { result, abort } = run('deaf');
  abort.abort(canceled);
  await expect.poll(() => kill.mock.calls.length, { timeout: 10_000 }).toBe(1);
  expect([device.status, device.accepting]).toEqual(['ready', false]);
  expect(told).toEqual([[false, 1]]);
  await expect(run('ending').result).rejects.toBeInstanceOf(HandBack);
  kill.mockRestore();
  await device.stop();
  await expect(result).rejects.toBe(canceled);
});

test('so is one in which what a stopped job had begun never ends', async () => {
  await start({ settleMs: 50 });
  const before = await kills();
  const { result, over, abort } = run('busy');
  abort.abort(canceled);
  await expect(result).rejects.toBe(canceled);
  await over;
  await expect.poll(() => device.status).toBe('ready');
  expect(await kills()).toBe(before + 1);
});

test('a process that comes after is not killed for what was in the one before', async () => {
  await start({ hangMs: 1e9 });
  const before = await kills();
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  const { result, abort } = run('deaf');
  abort.abort(canceled);
  const ended = expect(result).rejects.toBe(canceled);
  await vi.advanceTimersByTimeAsync(60_000);
  await ended;
  const afterRestart = async () => {
    await vi.advanceTimersByTimeAsync(10);
    return device.status;
  };
  await expect.poll(afterRestart).toBe('ready');
  // The grace and the time to settle, twice over.
  await vi.advanceTimersByTimeAsync(240_000);
  // A killed one would hand it back.
  await run('ending').result;
  expect([device.status, await kills()]).toEqual(['ready', before + 1]);
});

test('a process that has grown too large tells that it takes no more jobs, and of each that ends', async () => {
  await start();
  const told = changes();
  const [busy, large] = [run('busy'), run('large')];
  await expect.poll(() => told, { timeout: 10_000 }).toEqual([[false, 2]]);
  busy.abort.abort(canceled);
  await expect(busy.result).rejects.toBe(canceled);
  expect(told.slice(1)).toEqual([[false, 1]]);
  large.abort.abort(canceled);
  await expect(large.result).rejects.toBe(canceled);
  expect(told.slice(2)).toEqual([[false, 0]]);
  await expect.poll(() => told.at(-1), { timeout: 10_000 }).toEqual([true, 0]);
});

test('a process that cannot start is told of in full: what it said, and what it wrote besides', async () => {
  const starting = start({}, 'unusable');
  const detail = `The device cannot be used: Failed to load shared library. It needs a GPU. The last words of its process:
2026-11-30 14:15:14.286273077 [E:onnxruntime:, provider_bridge_ort.cc:2146 Create] libcublasLt.so.13: cannot open shared object file`;
  await expect(starting).rejects.toMatchObject({ code: 'device_unavailable', message: detail });
  expect(errors).toEqual([
    expect.objectContaining({
      device: 'cpu',
      msg: 'the device cannot start',
      code: 'device_unavailable',
      detail,
      err: 'Error: Failed to load',
    }),
  ]);
  expect(device.status).toBe('failed');
});

test('one that is stopped while it starts has not failed', async () => {
  const starting = start();
  await device.stop();
  await expect(starting).rejects.toMatchObject({ code: 'device_unavailable' });
  expect([device.status, errors]).toEqual(['stopped', []]);
});

test('a tile may take as long as silence may last, and what a job had begun as long as a start', () => {
  const settings = {
    DEVICE_START_SECONDS: 900,
    DEVICE_HANG_SECONDS: 200,
    DEVICE_MAX_RSS_MEGABYTES: 1,
  };
  expect(deviceLimits(settings, { restartDelayMs: 1 })).toMatchObject({
    hangMs: 200_000,
    abortGraceMs: 200_000,
    settleMs: 900_000,
  });
});

test('what is refused is over', async () => {
  await start();
  const aborted = AbortSignal.abort(canceled);
  const first = device.run('id', jobData('id', Buffer.alloc(1)), aborted, () => {});
  await expect(first.result).rejects.toBe(canceled);
  await first.over;
  await device.stop();
  const second = run('ending');
  await expect(second.result).rejects.toBeInstanceOf(HandBack);
  await second.over;
});
