/**
 * When a worker is of no use any more. What a new device process does not mend, a new worker may: a container that has lost
 * its GPU (as after `systemctl daemon-reload` with NVIDIA's runtime) finds it again when it is started again.
 */
import { AppError } from '../errors.ts';
import type { Device } from './device.ts';

/**
 * @param limitMs what a start may take
 * @returns rejects with device_unavailable when a device could not be started again, and none has been ready for `limitMs`
 */
export function whenAllLost(devices: readonly Device[], limitMs: number): Promise<never> {
  const lost = new Promise<never>((_, reject) => {
    for (const device of devices) {
      device.on('failedStart', (error) => {
        const now = performance.now();
        const isLost = ({ status, lastReadyAt }: Device): boolean =>
          status !== 'ready' && now - lastReadyAt >= limitMs;
        if (!devices.every(isLost)) return;
        const detail = `The worker ends: no device of it has been ready for ${limitMs / 1000} s (DEVICE_START_SECONDS), and none could be started again. ${error.message}`;
        reject(new AppError('device_unavailable', detail, { cause: error }));
      });
    }
  });
  // Whoever started the worker looks at it; until then a rejection must not end the process.
  lost.catch(() => {});
  return lost;
}
