/** How long a device waits for a run that it has told to stop, and when there is room for another. */
import { ChildProcess } from 'node:child_process';
import path from 'node:path';
import pino from 'pino';
import { afterEach, describe, expect, onTestFinished, test, vi } from 'vitest';
import { AppError } from '../../../src/errors.ts';
import type { UpscaleJobData } from '../../../src/jobs/job.ts';
import { metrics } from '../../../src/metrics.ts';
import { Device, type DeviceLimits } from '../../../src/worker/device.ts';
import { DeviceChild } from '../../../src/worker/device-child.ts';
import { HandBack } from '../../../src/worker/hand-back.ts';
import type { DeviceSettings } from '../../../src/worker/protocol.ts';
import { RestartDelay } from '../../../src/worker/restart-delay.ts';
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

async function start(
  limits: Partial<DeviceLimits> = {},
  { defaultModel = '', device: name = 'cpu' } = {},
): Promise<void> {
  errors = [];
  const write = (line: string) => errors.push(JSON.parse(line) as Record<string, unknown>);
  device = new Device({
    program: path.resolve(import.meta.dirname, '../../support/fake-device.mjs'),
    settings: { device: name, defaultModel } as DeviceSettings,
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
function run(
  does:
    | 'busy'
    | 'deaf'
    | 'ending'
    | 'large'
    | 'starved'
    | 'broken'
    | 'doomed'
    | 'breaking'
    | 'damaged'
    | 'mended',
  more: Partial<UpscaleJobData> = {},
) {
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

const restarts = async (reason: string): Promise<number> => {
  const { values } = await metrics.deviceRestarts.get();
  const isOurs = ({ labels }: (typeof values)[number]) =>
    labels.reason === reason && labels.device === device.name;
  return values.find(isOurs)?.value ?? 0;
};
const kills = () => restarts('disobeyed');

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

test('a process whose device is broken is replaced, later each time; another job loses no attempt', async () => {
  const delay = vi.spyOn(RestartDelay.prototype, 'next');
  onTestFinished(() => delay.mockRestore());
  await start({}, { device: 'cuda:0' });
  const before = await restarts('broken');
  const told = changes();
  const [busy, broken] = [run('busy'), run('broken')];
  await expect(broken.result).rejects.toMatchObject({ code: 'device_lost', retryable: true });
  expect(device.accepting).toBe(false);
  await expect(busy.result).rejects.toBeInstanceOf(HandBack);
  await expect.poll(() => told.at(-1), { timeout: 10_000 }).toEqual([true, 0]);
  expect(await restarts('broken')).toBe(before + 1);
  expect(delay).toHaveBeenCalledExactlyOnceWith(true, expect.any(Number));
});

test('nor does one that finds the device broken after that', async () => {
  await start({}, { device: 'cuda:0' });
  // The moment before the process ends, held.
  const kill = vi.spyOn(DeviceChild.prototype, 'kill').mockImplementation(() => {});
  onTestFinished(() => kill.mockRestore());
  const [doomed, broken] = [run('doomed'), run('broken')];
  await expect(broken.result).rejects.toMatchObject({ code: 'device_lost' });
  await expect(doomed.result).rejects.toBeInstanceOf(HandBack);
  kill.mockRestore();
});

test('nor does one beside a run that was stopped, and breaks the device after that', async () => {
  await start({}, { device: 'cuda:0' });
  const before = await restarts('broken');
  const [busy, breaking] = [run('busy'), run('breaking')];
  breaking.abort.abort(canceled);
  await expect(breaking.result).rejects.toBe(canceled);
  await expect(busy.result).rejects.toBeInstanceOf(HandBack);
  await expect.poll(() => restarts('broken')).toBe(before + 1);
});

test('a process whose GPU ran out of memory is replaced at once; another job loses no attempt', async () => {
  await start({}, { device: 'cuda:0' });
  const before = await restarts('memory');
  const told = changes();
  const [busy, starved] = [run('busy'), run('starved')];
  await expect(starved.result).rejects.toMatchObject({ code: 'out_of_device_memory' });
  expect(device.accepting).toBe(false);
  await expect(busy.result).rejects.toBeInstanceOf(HandBack);
  await expect.poll(() => told.at(-1), { timeout: 10_000 }).toEqual([true, 0]);
  expect(await restarts('memory')).toBe(before + 1);
});

test('a CPU keeps its process: its allocator is that of the process', async () => {
  await start();
  await expect(run('starved').result).rejects.toMatchObject({ code: 'out_of_device_memory' });
  expect(device.accepting).toBe(true);
});

test('a model that did not open is told of before its job fails, and again when it opens', async () => {
  await start();
  const told: boolean[] = [];
  device.on('models', () => told.push(device.unopened.has('identity')));
  await expect(run('damaged').result).rejects.toMatchObject({ code: 'model_failed' });
  expect(told).toEqual([true]);
  await run('mended').result;
  expect(told).toEqual([true, false]);
  expect(errors).toMatchObject([{ model: 'identity', detail: 'Damaged.' }]);
});

describe('a process that SIGKILL does not end', () => {
  /** From now on nothing is killed. What it returns ends the processes that should have been. */
  function holdKills() {
    const kill = vi.spyOn(ChildProcess.prototype, 'kill').mockReturnValue(true);
    const endThem = () => {
      const children = [...(kill.mock.contexts as ChildProcess[])];
      kill.mockRestore();
      for (const child of children) child.kill('SIGKILL');
    };
    onTestFinished(endThem);
    return endThem;
  }
  const useFakeTimers = () => vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });

  test('gives its jobs back, and is followed by another when it has ended', async () => {
    await start({ hangMs: 1e9 });
    const endIt = holdKills();
    useFakeTimers();
    const [deaf, bystander] = [run('deaf'), run('busy')];
    deaf.abort.abort(canceled);
    const ended = Promise.all([
      expect(deaf.result).rejects.toBe(canceled),
      expect(bystander.result).rejects.toBeInstanceOf(HandBack),
    ]);
    await vi.advanceTimersByTimeAsync(65_000);
    await Promise.all([ended, deaf.over, bystander.over]);
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(device.status).toBe('failed');
    expect(errors).toEqual([
      expect.objectContaining({
        msg: 'the device process was killed and does not end',
        how: 'does not end',
      }),
    ]);
    endIt();
    const later = async () => {
      await vi.advanceTimersByTimeAsync(10);
      return device.status;
    };
    await expect.poll(later, { timeout: 10_000 }).toBe('ready');
  });

  test('fails a start that takes too long all the same', async () => {
    holdKills();
    useFakeTimers();
    const starting = expect(start({ startMs: 1000 }, { defaultModel: 'mute' })).rejects.toThrow(
      'was not ready within 1 s',
    );
    await vi.advanceTimersByTimeAsync(6000);
    await starting;
    expect(device.status).toBe('failed');
  });

  test('does not hold up a shutdown', async () => {
    await start();
    holdKills();
    useFakeTimers();
    const { result } = run('busy');
    const handedBack = expect(result).rejects.toBeInstanceOf(HandBack);
    const stopped = device.stop();
    await vi.advanceTimersByTimeAsync(5000);
    await Promise.all([stopped, handedBack]);
  });
});

test('a process that cannot start is told of in full: what it said, and what it wrote besides', async () => {
  const starting = start({}, { defaultModel: 'unusable' });
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
