import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  checkModelMemory,
  deviceMemory,
  driverMemory,
  modelBudget,
} from '../../../src/worker/device-memory.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pisa-smi-'));
});
afterAll(() => rm(folder, { recursive: true }));

/** A stand-in for nvidia-smi that prints its arguments to a file and `text` to stdout. */
async function driver(name: string, text: string): Promise<string> {
  const file = path.join(folder, name);
  await writeFile(file, `#!/bin/sh\necho "$*" > ${file}.args\n${text}\n`);
  await chmod(file, 0o755);
  return file;
}

describe('the memory of a device', () => {
  it('is what the driver says of a CUDA device, MiB in, bytes out', async () => {
    const l4 = await driver('l4', 'if [ "$3" = --id=3 ]; then echo 23034; fi');
    expect(await driverMemory('cuda:3', l4)).toBe(23_034 * 1_048_576);
    // Also what is sold as 24 GB has 24 × 10⁹ bytes.
    expect((await driverMemory('cuda:3', l4)) ?? 0).toBeGreaterThan(24e9);
    expect(await driverMemory('cuda:0', l4)).toBeUndefined();
  });

  it.each([
    ['that is not there', 'cuda:0', '/nowhere/nvidia-smi'],
    ['of another device', 'cpu', 'sh'],
    ['of another device', 'webgpu', 'sh'],
  ])('is unknown to a driver %s', async (_, device, command) => {
    expect(await driverMemory(device, command)).toBeUndefined();
  });

  it('is unknown where the driver fails or talks otherwise', async () => {
    expect(await driverMemory('cuda:0', await driver('bad', 'exit 9'))).toBeUndefined();
    expect(await driverMemory('cuda:0', await driver('na', 'echo "[N/A]"'))).toBeUndefined();
  });

  it('is unknown where the driver does not answer, and does not end when it is told to', async () => {
    // What it has begun holds its output open, as long as the folder is there.
    const deaf = await driver(
      'deaf',
      `trap '' TERM\n(while [ -e "$0" ]; do sleep 1; done) &\nwait`,
    );
    expect(await driverMemory('cuda:0', deaf, 50)).toBeUndefined();
  });

  it('is what the setting says, and never that of a CPU', async () => {
    const settings = { DEVICE_MEMORY_GIGABYTES: 12 };
    expect(await deviceMemory('cuda:0', settings)).toBe(12e9);
    expect(await deviceMemory('webgpu', settings)).toBe(12e9);
    expect(await deviceMemory('cpu', settings)).toBeUndefined();
  });
});

describe('the budget of models', () => {
  const settings = { MODEL_MEMORY_MEGABYTES: 0, DEVICE_MAX_RSS_MEGABYTES: 8192 };

  it.each([
    { memory: undefined, megabytes: 0, bytes: 6144e6 },
    { memory: 24e9, megabytes: 0, bytes: 19.2e9 },
    { memory: 24e9, megabytes: 500, bytes: 500e6 },
  ])('$memory bytes of memory, set to $megabytes → $bytes', ({ memory, megabytes, bytes }) => {
    const changed = { ...settings, MODEL_MEMORY_MEGABYTES: megabytes };
    expect(modelBudget(memory, changed)).toBeCloseTo(bytes, 0);
  });

  it('must leave room in a process that is replaced when it grows too large', () => {
    const check = (devices: string[], megabytes: number) => () =>
      checkModelMemory(devices, { ...settings, MODEL_MEMORY_MEGABYTES: megabytes });
    expect(check(['cuda:0'], 9000)).not.toThrow();
    expect(check(['cpu'], 6144)).not.toThrow();
    expect(check(['cuda:0', 'cpu'], 9000)).toThrow(
      /MODEL_MEMORY_MEGABYTES=9000 .* at least 12000 .* but it is 8192/,
    );
  });
});
