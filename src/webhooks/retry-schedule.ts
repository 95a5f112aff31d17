/** When a delivery that failed is tried again. */

/** A receiver may ask for patience, but not for more than this. */
const maxRetryAfterMs = 86_400_000;

/**
 * The wait before the next attempt: by the schedule, up to a tenth more (so that what failed together does not
 * come back together), and no less than what the receiver asked for.
 * @param attemptsMade at least 1; the last wait of the schedule holds for all that follow
 * @param retryAfterMs what the receiver's Retry-After asked for
 * @param random uniform in [0, 1)
 */
export function retryDelayMs(
  scheduleSeconds: readonly number[],
  attemptsMade: number,
  retryAfterMs = 0,
  random: number = Math.random(),
): number {
  const index = Math.min(attemptsMade, scheduleSeconds.length) - 1;
  const scheduled = (scheduleSeconds[index] ?? 0) * 1000 * (1 + 0.1 * random);
  return Math.ceil(Math.max(scheduled, Math.min(retryAfterMs, maxRetryAfterMs)));
}
