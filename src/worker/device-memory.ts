/** How much memory a device has, and how much of it models may take. */
import { execFile } from 'node:child_process';
import type { Config } from '../config.ts';
import { AppError } from '../errors.ts';

const megabyte = 1_000_000;
/** Leaves room for CUDA itself, cuDNN's workspaces and what else runs there; the converter plans with the same. */
const shareOfDevice = 0.8;
/** Leaves room for images and for Node itself. */
const shareOfProcess = 0.75;
const nvidiaSmiLimitMs = 10_000;

/**
 * What a command prints. `execFile`'s own time limit waits for the end of what it killed, which a driver may hold up.
 * @throws when it cannot be started, fails, or takes too long
 */
function output(command: string, args: readonly string[], limitMs: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = execFile(command, args, (error, stdout) => {
      clearTimeout(tooLong);
      if (error) reject(error);
      else resolve(stdout);
    });
    const tooLong = setTimeout(() => {
      child.kill('SIGKILL');
      // Nothing of it keeps a command from its end.
      child.stdout?.destroy();
      child.stderr?.destroy();
      child.unref();
      reject(new Error(`${command} did not end within ${limitMs / 1000} s`));
    }, limitMs);
  });
}

/**
 * Bytes of memory of a CUDA device as the driver tells; undefined where it does not, or for another device.
 * @param device as in DEVICES
 */
export async function driverMemory(
  device: string,
  command = 'nvidia-smi',
  limitMs = nvidiaSmiLimitMs,
): Promise<number | undefined> {
  if (!device.startsWith('cuda:')) return undefined;
  const index = device.slice('cuda:'.length);
  const args = ['--query-gpu=memory.total', '--format=csv,noheader,nounits', `--id=${index}`];
  try {
    const mebibytes = Number((await output(command, args, limitMs)).trim());
    return mebibytes > 0 ? mebibytes * 1_048_576 : undefined;
  } catch {
    return undefined;
  }
}

/** Bytes of the device's own memory; undefined for a CPU, and where nobody knows. */
export async function deviceMemory(
  device: string,
  { DEVICE_MEMORY_GIGABYTES }: Pick<Config, 'DEVICE_MEMORY_GIGABYTES'>,
): Promise<number | undefined> {
  if (device === 'cpu') return undefined;
  return DEVICE_MEMORY_GIGABYTES > 0 ? DEVICE_MEMORY_GIGABYTES * 1e9 : driverMemory(device);
}

type MemorySettings = Pick<Config, 'MODEL_MEMORY_MEGABYTES' | 'DEVICE_MAX_RSS_MEGABYTES'>;

/** Bytes that the models of a device may take together. */
export function modelBudget(memoryBytes: number | undefined, settings: MemorySettings): number {
  const { MODEL_MEMORY_MEGABYTES, DEVICE_MAX_RSS_MEGABYTES } = settings;
  if (MODEL_MEMORY_MEGABYTES > 0) return MODEL_MEMORY_MEGABYTES * megabyte;
  if (memoryBytes !== undefined) return shareOfDevice * memoryBytes;
  return shareOfProcess * DEVICE_MAX_RSS_MEGABYTES * megabyte;
}

/**
 * On a CPU models are part of the process: one that may hold more of them than it may hold at all would be replaced
 * after every job.
 * @throws invalid_config
 */
export function checkModelMemory(devices: readonly string[], settings: MemorySettings): void {
  const { MODEL_MEMORY_MEGABYTES, DEVICE_MAX_RSS_MEGABYTES } = settings;
  const least = Math.ceil(MODEL_MEMORY_MEGABYTES / shareOfProcess);
  if (!devices.includes('cpu') || least <= DEVICE_MAX_RSS_MEGABYTES) return;
  throw new AppError(
    'invalid_config',
    `With MODEL_MEMORY_MEGABYTES=${MODEL_MEMORY_MEGABYTES} a cpu device needs DEVICE_MAX_RSS_MEGABYTES of at least ${least} (a third more, for images), but it is ${DEVICE_MAX_RSS_MEGABYTES}.`,
  );
}
