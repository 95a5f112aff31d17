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
