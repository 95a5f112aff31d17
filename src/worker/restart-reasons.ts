/** Why a device process is replaced, and what that means for the jobs that were in it. */
import { AppError } from '../errors.ts';
import { HandBack } from './hand-back.ts';

/** Broken: it said itself that its device does nothing more for it. */
export const restartReasons = ['crashed', 'hung', 'broken', 'disobeyed', 'memory'] as const;
export type RestartReason = (typeof restartReasons)[number];

/** True for what the next process may find the reason of again. */
export const isFailure = (reason: RestartReason): boolean =>
  reason === 'crashed' || reason === 'hung' || reason === 'broken';

/**
 * How a job ends with its process. Whoever was there when another job disobeyed, or was the first to find its device
 * broken, is not at fault. Nobody knows who made it crash.
 */
export function lossOf(reason: RestartReason): Error {
  if (reason !== 'crashed' && reason !== 'hung') return new HandBack();
  return new AppError(
    'device_lost',
    'The device process stopped during the job, and so it did at every retry. Send the image again; if it fails again, a smaller image may help.',
  );
}
