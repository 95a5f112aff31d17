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

/**
 * Retry-After as milliseconds from now (RFC 9110, section 10.2.3): seconds, or a date.
 * @returns undefined when the header is absent or neither
 */
export function parseRetryAfter(header: string | undefined, nowMs: number): number | undefined {
  const text = header?.trim() ?? '';
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const at = /^[A-Za-z]{3}/.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(at) ? undefined : Math.max(0, at - nowMs);
}
