/** When another server asks to be asked again. */

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
