/** Waits that end whatever they wait for: that goes on, and how it ends later is nobody's business. */

/**
 * Waits for something, but not for ever: a shutdown must end even when Redis is away.
 * @returns true when it ended within the time limit
 * @throws what `work` throws, if it does within the time limit
 */
export async function within(work: Promise<unknown>, timeLimitMs: number): Promise<boolean> {
  let timer: NodeJS.Timeout | undefined;
  const limit = new Promise<boolean>((resolve) => {
    timer = setTimeout(resolve, timeLimitMs, false);
  });
  try {
    return await Promise.race([work.then(() => true), limit]);
  } finally {
    clearTimeout(timer);
  }
}

/** Settles with `work`, or rejects with the reason of the signal if that comes first. */
export function unlessAborted<T>(work: Promise<T>, signal: AbortSignal | undefined): Promise<T> {
  if (!signal) return work;
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(signal.reason);
    if (signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort, { once: true });
    // Heard even after the abort: a rejection that nobody hears ends the process.
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', onAbort));
  });
}
